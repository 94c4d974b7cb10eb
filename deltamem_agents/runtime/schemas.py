"""JSON schemas as decoding enforces them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

# The widest range of 64-bit integers whose ends a float64, as grammars keep bounds, tells exactly.
_WIDEST = 2**63 - 2**10
_NUMBER = {"type": "number", "minimum": -_WIDEST, "maximum": _WIDEST}
# Any of these says what a value is; a schema with none of them takes whatever there is.
_SAYS = {
    "type", "enum", "const", "properties", "patternProperties", "additionalProperties", "items",
    "prefixItems", "anyOf", "oneOf", "allOf", "not", "if", "pattern", "format",
}  # fmt: skip
# The formats that grammars know; by the standard, others say nothing about a value.
_FORMATS = {
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
}  # fmt: skip
_ANNOTATIONS = ("enum", "const", "default", "examples")


def strict(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """A schema without free white space, so that what is generated is its canonical form.

    Args:
        schema: a JSON schema.
        lenient: leave out what a grammar cannot enforce; a tool looks at its arguments itself.
    """
    options = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "coerce_one_of": True,
        "lenient": lenient,
    }
    named, own = schema.get("$defs", {}), "anything"
    while own in named:
        own += "_"
    anything = {"$ref": f"#/$defs/{own}"}
    whole = {**closed(schema, anything), "x-guidance": options}
    whole["$defs"] = {**whole.get("$defs", {}), own: _anything(anything)}
    return json.dumps(whole, ensure_ascii=False)


def _anything(reference: Mapping[str, str]) -> dict[str, Any]:
    """A schema that any value fits; `reference` names it."""
    return {
        "anyOf": [
            {"type": "string"},
            _NUMBER,
            {"type": ["boolean", "null"]},
            {"type": "array", "items": reference},
            {"type": "object", "additionalProperties": reference},
        ]
    }


def closed(schema: Any, anything: Mapping[str, str]) -> Any:
    """The same schema, with objects and numbers that fit what stores and other languages have.

    Objects have the properties that are named and no others. Numbers without a bound of their own
    are kept to 64 bits, written without an exponent, also where a schema takes any value: with
    more, JSON has infinities and integers of any length.

    Args:
        schema: a schema or a part of one.
        anything: refers to the schema of any value.
    """
    if schema is True:
        return anything
    if isinstance(schema, list):
        return [closed(part, anything) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    schema = {key: value for key, value in schema.items() if not _left_out(key, value)}
    if "$ref" not in schema and not _SAYS & schema.keys():
        return {**schema, **anything}
    result = {key: _closed_part(key, value, anything) for key, value in schema.items()}
    kinds = _kinds(schema)
    if kinds & {"integer", "number"} and not {"enum", "const"} & schema.keys():
        _bound(result)
    if isinstance(schema.get("properties"), Mapping):
        result.setdefault("additionalProperties", False)
    elif "object" in kinds and "patternProperties" not in schema:
        result.setdefault("additionalProperties", anything)
    if "array" in kinds:
        result.setdefault("items", anything)
    return result


def _left_out(key: str, value: Any) -> bool:
    """Whether no grammar minds it: who reads a set from a list does not mind repeats either."""
    if isinstance(value, bool):
        return key == "uniqueItems"
    return key == "format" and isinstance(value, str) and value not in _FORMATS


def _closed_part(key: str, value: Any, anything: Mapping[str, str]) -> Any:
    if key in ("properties", "patternProperties", "$defs", "definitions"):
        return {name: closed(part, anything) for name, part in value.items()}
    if value is True and key not in ("items", "additionalProperties"):
        return value  # an annotation such as deprecated
    return value if key in _ANNOTATIONS else closed(value, anything)


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    kinds = schema.get("type", ())
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _bound(result: dict[str, Any]) -> None:
    """Give a number the bounds that it lacks, where the one it has leaves room for the other."""
    least = max(
        (result[key] for key in ("minimum", "exclusiveMinimum") if key in result), default=None
    )
    most = min(
        (result[key] for key in ("maximum", "exclusiveMaximum") if key in result), default=None
    )
    if least is None and (most is None or most > -_WIDEST):
        result["minimum"] = -_WIDEST
    if most is None and (least is None or least < _WIDEST):
        result["maximum"] = _WIDEST


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
