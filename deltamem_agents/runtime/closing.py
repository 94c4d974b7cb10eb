"""Objects of a JSON schema have the properties that it names, wherever in it they are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deltamem_agents.errors import MessageError

# The widest range of 64-bit integers whose ends a float64, as grammars keep bounds, tells exactly.
WIDEST = 2**63 - 2**10
# Any of these says what a value is; a schema with none of them takes whatever there is.
_SAYS = {
    "type", "enum", "const", "properties", "patternProperties", "additionalProperties", "items",
    "prefixItems", "anyOf", "oneOf", "allOf", "not", "if", "pattern", "format",
}  # fmt: skip
# The formats that grammars know; by the standard, others say nothing about a value.
FORMATS = {
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
}  # fmt: skip
_ANNOTATIONS = ("enum", "const", "default", "examples")
_NAMED, _PATTERNS = "properties", "patternProperties"

Names = frozenset[tuple[str, str]]  # (keyword, name or pattern)


class Closing:
    """Gives a schema's objects and numbers what stores and other languages have.

    Objects have the properties that are named and no others. Where several parts speak of one
    object (`allOf`, a `$ref` or `anyOf` beside `properties`), what one names the others let be,
    unless they have an `additionalProperties` of their own.

    Numbers without a bound of their own are kept to 64 bits, written without an exponent, also
    where a schema takes any value: with more, JSON has infinities and integers of any length.

    Args:
        root: the whole schema, in which references are looked up.
        anything: refers to the schema of any value.
    """

    def __init__(self, root: Mapping[str, Any], anything: Mapping[str, str]) -> None:
        self._root, self._anything = root, anything

    def of(self, schema: Any, others: Names = frozenset(), met: Names = frozenset()) -> Any:
        """Close a schema or a part of one.

        Args:
            schema: what is closed.
            others: what other parts name that speak of the same object.
            met: references on the way here.

        Raises:
            MessageError: a reference leads back to itself, and never to a value.
        """
        if schema is True:
            return self._anything
        if isinstance(schema, list):
            return [self.of(part, others, met) for part in schema]
        if not isinstance(schema, Mapping):
            return schema
        schema = {key: value for key, value in schema.items() if not _left_out(key, value)}
        if "$ref" not in schema and not _SAYS & schema.keys():
            return {**schema, **self._anything}
        own = frozenset(_own_names(schema))
        parts = {key: self._names(schema[key], met) for key in _JOINED if key in schema}
        result = {key: self._part(key, value) for key, value in schema.items() if key not in parts}
        for key in parts:
            beside = others | own
            beside = beside.union(*(found for other, found in parts.items() if other != key))
            self._join(result, key, schema[key], beside, met)
        self._bounds(schema, result, others.union(*parts.values()))
        return result

    def _join(
        self, result: dict[str, Any], key: str, value: Any, beside: Names, met: Names
    ) -> None:
        """Close a part that speaks of the same value as what it stands in."""
        if key == "$ref":
            step, target = ("$ref", str(value)), target_of(str(value), self._root)
            if not beside or not isinstance(target, Mapping):
                result[key] = value
            else:  # it is used in other places too, so what is closed otherwise is a copy
                result.setdefault("allOf", []).append(self.of(target, beside, met | {step}))
        elif key == "allOf":
            found = [self._names(part, met) for part in value]
            for place, part in enumerate(value):
                rest = beside.union(*(names for n, names in enumerate(found) if n != place))
                result.setdefault("allOf", []).append(self.of(part, rest, met))
        else:
            result[key] = [self.of(part, beside, met) for part in value]

    def _part(self, key: str, value: Any) -> Any:
        if key in (_NAMED, _PATTERNS, "$defs", "definitions") and isinstance(value, Mapping):
            return {name: self.of(part) for name, part in value.items()}
        if value is True and key not in ("items", "additionalProperties"):
            return value  # an annotation such as deprecated
        return value if key in _ANNOTATIONS else self.of(value)

    def _bounds(self, schema: Mapping[str, Any], result: dict[str, Any], others: Names) -> None:
        kinds = _kinds(schema)
        if kinds & {"integer", "number"} and not {"enum", "const"} & schema.keys():
            _bound(result)
        if isinstance(schema.get(_NAMED), Mapping):
            if "additionalProperties" not in schema:
                self._let_be(schema, result, others)
                result["additionalProperties"] = False
        elif "object" in kinds and _PATTERNS not in schema and not others:
            result.setdefault("additionalProperties", self._anything)
        if "array" in kinds:
            result.setdefault("items", self._anything)

    def _let_be(self, schema: Mapping[str, Any], result: dict[str, Any], others: Names) -> None:
        """Allow what others name, and what is required and nowhere described."""
        for keyword, name in sorted(others):
            result.setdefault(keyword, {}).setdefault(name, True)
        if _PATTERNS not in result:
            for keyword, name in _own_names(schema):
                result[keyword].setdefault(name, self._anything)

    def _names(self, part: Any, met: Names) -> Names:
        """What a part names of the object that it speaks of."""
        if isinstance(part, str):  # a reference
            step = ("$ref", part)
            if step in met:  # a grammar of it would be looked for without end
                raise MessageError(
                    "what a reference leads to comes to a value before that reference comes again",
                    got=part,
                    remedy="Describe the value there, or refer to it from a property or an item.",
                )
            return self._names(target_of(part, self._root), met | {step})
        if isinstance(part, list):
            return frozenset[tuple[str, str]]().union(*(self._names(each, met) for each in part))
        if not isinstance(part, Mapping):
            return frozenset()
        inner = (self._names(part[key], met) for key in _JOINED if key in part)
        return frozenset(_own_names(part)).union(*inner)


_JOINED = ("$ref", "allOf", "anyOf", "oneOf")  # keywords that speak of the value they stand in


def _own_names(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for keyword in (_NAMED, _PATTERNS):
        if isinstance(schema.get(keyword), Mapping):
            yield from ((keyword, name) for name in schema[keyword])
    if isinstance(schema.get("required"), list):
        yield from ((_NAMED, name) for name in schema["required"] if isinstance(name, str))


def target_of(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference within a schema refers to; None where that is nothing."""
    part: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        part = part.get(name) if isinstance(part, Mapping) else None
    return part


def _left_out(key: str, value: Any) -> bool:
    """Whether no grammar minds it: who reads a set from a list does not mind repeats either."""
    if isinstance(value, bool):
        return key == "uniqueItems"
    return key == "format" and isinstance(value, str) and value not in FORMATS


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    kinds = schema.get("type")
    several = kinds if isinstance(kinds, list) else [kinds]
    return {kind for kind in several if isinstance(kind, str)}


def _bound(result: dict[str, Any]) -> None:
    """Give a number the bounds that it lacks, where the one it has leaves room for the other."""
    least = max(_numbers(result, "minimum", "exclusiveMinimum"), default=None)
    most = min(_numbers(result, "maximum", "exclusiveMaximum"), default=None)
    if least is None and (most is None or most > -WIDEST):
        result.setdefault("minimum", -WIDEST)
    if most is None and (least is None or least < WIDEST):
        result.setdefault("maximum", WIDEST)


def _numbers(schema: Mapping[str, Any], *keys: str) -> Iterator[float]:
    return (schema[key] for key in keys if isinstance(schema.get(key), int | float))
