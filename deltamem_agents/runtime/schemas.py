"""JSON schemas as decoding enforces them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def strict(schema: Mapping[str, Any]) -> str:
    """A schema without free white space, so that what is generated is its canonical form."""
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return json.dumps({**closed(schema), "x-guidance": options}, ensure_ascii=False)


# The widest range of 64-bit integers whose ends a float64, as grammars keep bounds, tells exactly.
_WIDEST = 2**63 - 2**10


def closed(schema: Any) -> Any:
    """The same schema, in which objects have the properties that are named and no others.

    Integers without a bound are kept to 64 bits: stores and other languages have no wider ones.
    """
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "$defs", "definitions"):
            result[key] = {name: closed(part) for name, part in value.items()}
        else:
            result[key] = value if key in ("enum", "const", "default") else closed(value)
    kinds = schema.get("type")
    whole = kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds)
    if whole and not {"enum", "const"} & schema.keys():
        if not {"minimum", "exclusiveMinimum"} & schema.keys():
            result["minimum"] = -_WIDEST
        if not {"maximum", "exclusiveMaximum"} & schema.keys():
            result["maximum"] = _WIDEST
    if isinstance(schema.get("properties"), Mapping):
        result.setdefault("additionalProperties", False)
    return result


def property_names(schema: Any) -> Iterator[str]:
    """Yield the names of all properties, at any depth."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "properties" and isinstance(value, Mapping):
                yield from map(str, value)
            yield from property_names(value)
    elif isinstance(schema, list):
        for part in schema:
            yield from property_names(part)
