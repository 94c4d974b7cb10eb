"""Lone surrogates in the state: text that UTF-8, and so msgpack, cannot hold.

LangGraph's serializer replaces each by "?", silently. Here text that has one is rewritten to a
marked, reversible form before it is packed, and back after it is read. Only values in which a "?"
appears are looked at, so that the usual value costs nothing. What cannot be rewritten (a path, a
member of an enum, what is nested very deep) is refused where it has a lone surrogate.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from langgraph.checkpoint.serde.types import SendProtocol
from langgraph.store.base import Item

from deltamem_agents.errors import SerializationError

DEPTH = 100
_NOT_PACKED = ("__dict__", "__weakref__", "__pydantic_fields_set__", "__pydantic_private__")
_MARK = "\ue0ffsurrogates:"


def shield(value: Any) -> Any:
    """A copy with marked text, or `value` itself where there is nothing to mark.

    Raises:
        SerializationError: a lone surrogate is where it cannot be marked.
    """
    return _walk(value, _hide, 0)


def unshield(value: Any) -> Any:
    """The inverse of `shield`."""
    return _walk(value, _show, 0)


def _hide(text: str) -> str:
    if text.startswith(_MARK):
        return _MARK + text.encode("utf-16-le", "surrogatepass").hex()
    try:
        text.encode()
    except UnicodeEncodeError:
        return _MARK + text.encode("utf-16-le", "surrogatepass").hex()
    return text


def _show(text: str) -> str:
    if not text.startswith(_MARK):
        return text
    return bytes.fromhex(text[len(_MARK) :]).decode("utf-16-le", "surrogatepass")


def _walk(value: Any, change: Callable[[str], str], depth: int) -> Any:
    if isinstance(value, str):
        new = change(value)
        return value if new == value else new
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if depth <= DEPTH:
        for kinds, walk in _WALKS:
            if isinstance(value, kinds):
                return walk(value, change, depth)
        if _has_parts(value):
            return _walk_object(value, change, depth)
    _refuse_broken(value, change)
    return value


def _walk_mapping(value: Any, change: Callable[[str], str], depth: int) -> Any:
    pairs = [(_walk(k, change, depth + 1), _walk(v, change, depth + 1)) for k, v in value.items()]
    same = all(a is k and b is v for (a, b), (k, v) in zip(pairs, value.items(), strict=True))
    return value if same else dict(pairs)


def _walk_error(value: Any, change: Callable[[str], str], depth: int) -> Any:
    shown = repr(value)  # what the serializer packs
    new = change(shown)
    return value if new == shown else new


def _walk_sequence(value: Any, change: Callable[[str], str], depth: int) -> Any:
    entries = list(value)
    changed = [_walk(entry, change, depth + 1) for entry in entries]
    if all(a is b for a, b in zip(changed, entries, strict=True)):
        return value
    if hasattr(value, "_make"):
        return value._make(changed)
    return type(value)(changed)


_WALKS: tuple[tuple[Any, Callable[[Any, Callable[[str], str], int], Any]], ...] = (
    (dict, _walk_mapping),
    ((list, tuple, set, frozenset, deque), _walk_sequence),
    (BaseException, _walk_error),
)


def _has_parts(value: Any) -> bool:
    """Whether the serializer packs its attributes, and builds it from them again."""
    if isinstance(value, type):
        return False
    known = hasattr(value, "model_dump") or dataclasses.is_dataclass(value)
    return known or isinstance(value, SendProtocol | Item)


def _walk_object(value: Any, change: Callable[[str], str], depth: int) -> Any:
    """Models, dataclasses (with slots too), `Send`: a shallow copy with changed attributes."""
    changed = {
        name: new
        for name, old in _attributes(value)
        if (new := _walk(old, change, depth + 1)) is not old
    }
    if not changed:
        return value
    clone = copy.copy(value)
    for name, new in changed.items():
        # Models validate and frozen dataclasses refuse; the values keep their types.
        object.__setattr__(clone, name, new)
    return clone


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """By name, from `__dict__` and from the slots of every class."""
    yield from getattr(value, "__dict__", {}).items()
    kind: Any = type(value)
    for name in _slots(kind):
        if (held := getattr(value, name, None)) is not None:
            yield name, held


@lru_cache(maxsize=1024)
def _slots(kind: type) -> tuple[str, ...]:
    found: list[str] = []
    for one in kind.__mro__:
        slots = one.__dict__.get("__slots__", ())
        found += (slots,) if isinstance(slots, str) else slots
    return tuple(name for name in found if name not in _NOT_PACKED)


def _refuse_broken(value: Any, change: Callable[[str], str]) -> None:
    """What stays as it is must be whole on its way into the database."""
    if change is _hide and (text := _broken_text(value)) is not None:
        raise SerializationError(
            "text with a lone surrogate is in a plain value, a message, a model or a dataclass, "
            f"at most {DEPTH} levels deep",
            got=f"{text!a} in a value of type {type(value).__name__}",
            remedy="Repair the text (text.encode('utf-8', 'replace').decode()), or nest it less.",
        )


def _broken_text(value: Any) -> str | None:
    """A text with a lone surrogate, however deep it is."""
    waiting, seen = [value], set()
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, str):
            if _hide(entry) != entry and not entry.startswith(_MARK):
                return entry
        elif id(entry) not in seen and not isinstance(entry, type | BaseException):
            seen.add(id(entry))
            waiting += _parts(entry)
    return None


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, re.Pattern):
        return [value.pattern]
    return [entry for _, entry in _attributes(value)]
