"""JSON schemas as decoding enforces them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deltamem_agents.errors import MessageError
from deltamem_agents.runtime.closing import WIDEST, Closing

_NUMBER = {"type": "number", "minimum": -WIDEST, "maximum": WIDEST}


def strict(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """A schema without free white space, so that what is generated is its canonical form.

    Args:
        schema: a JSON schema.
        lenient: leave out what a grammar cannot enforce; a tool looks at its arguments itself.

    Raises:
        MessageError: it is no JSON, or a reference in it never leads to a value.
    """
    options = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "coerce_one_of": True,
        "lenient": lenient,
    }
    own = "anything"
    named = schema["$defs"] if isinstance(schema.get("$defs"), Mapping) else {}
    while own in named:
        own += "_"
    anything = {"$ref": f"#/$defs/{own}"}
    whole = {**Closing(schema, anything).of(schema), "x-guidance": options}
    whole["$defs"] = {**(whole["$defs"] if named else {}), own: _anything(anything)}
    try:
        return json.dumps(whole, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise MessageError(
            "a schema is JSON", got=error, remedy="Put text, numbers, lists and mappings into it."
        ) from error


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
