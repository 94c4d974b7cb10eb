"""JSON schemas in every form that LangChain knows, with nothing left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from deltamem_agents.chat.errors import ChatRequestError
from deltamem_agents.runtime.closing import target_of

# Any of these makes a dict a JSON schema, and not the description of a tool without parameters.
_KEYWORDS = {
    "type", "enum", "const", "properties", "patternProperties", "additionalProperties", "items",
    "prefixItems", "anyOf", "oneOf", "allOf", "not", "$ref",
}  # fmt: skip
_OF_OBJECTS = {"properties", "patternProperties", "additionalProperties"}


def json_schema(schema: Any) -> dict[str, Any]:
    """Return the JSON schema of a schema; one that is a JSON schema already, as it stands.

    Raises:
        ChatRequestError: it has none.
    """
    try:
        if is_json_schema(schema):
            return dict(schema)
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            whole = class_schema(schema)
            if is_recursive(whole):  # which LangChain's own form, without references, cannot say
                return whole
        return convert_to_json_schema(schema)
    except Exception as error:
        raise ChatRequestError(
            "a schema is a pydantic class, a TypedDict or a JSON schema",
            got=f"{schema!r} ({str(error).splitlines()[0]})",
            remedy="Pass one of these.",
        ) from error


def is_json_schema(schema: Any) -> bool:
    """Whether something is a JSON schema, and not a tool in another provider's form."""
    if not isinstance(schema, dict) or schema.get("type") == "function" or "toolSpec" in schema:
        return False
    if "name" in schema and {"parameters", "input_schema"} & schema.keys():
        return False
    return bool(_KEYWORDS & schema.keys())


def class_schema(schema: Any) -> dict[str, Any]:
    """Return the JSON schema of a class of pydantic 2 or 1."""
    make = getattr(schema, "model_json_schema", None) or schema.schema
    result: dict[str, Any] = make()
    return result


def is_object(schema: Any) -> bool:
    """Whether all values that fit a schema are objects, as a call's arguments are."""
    return _is_object(schema, schema, frozenset())


def _is_object(part: Any, root: Mapping[str, Any], met: frozenset[str]) -> bool:
    if not isinstance(part, Mapping):
        return False
    reference = part.get("$ref")
    if isinstance(reference, str):
        known = reference in met
        return not known and _is_object(target_of(reference, root), root, met | {reference})
    if "type" in part or _OF_OBJECTS & part.keys():
        return part.get("type", "object") in ("object", ["object"])
    for key, enough in (("allOf", any), ("anyOf", all), ("oneOf", all)):
        if isinstance(part.get(key), list) and part[key]:
            return enough(_is_object(each, root, met) for each in part[key])
    return False


def is_recursive(schema: Mapping[str, Any]) -> bool:
    """Whether a definition of a pydantic class's schema has itself as a part."""
    uses = {
        name: set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(part, default=str)))
        for name, part in schema.get("$defs", {}).items()
    }
    for _ in uses:
        uses = {name: met.union(*(uses.get(n, ()) for n in met)) for name, met in uses.items()}
    return any(name in met for name, met in uses.items())
