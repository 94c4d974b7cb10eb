"""Lone surrogates in the state: text that UTF-8, and so msgpack, cannot hold.

LangGraph's serializer replaces each by "?", silently. Here text that has one is rewritten to a
marked, reversible form before it is packed, and back after it is read. Only values in which a "?"
appears are looked at, so that the usual value costs nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

_MARK = "\ue0ffsurrogates:"


def shield(value: Any) -> Any:
    """A copy with marked text, or `value` itself where there is nothing to mark."""
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
    if depth > 100:
        return value
    if isinstance(value, str):
        new = change(value)
        return value if new == value else new
    if isinstance(value, dict):
        pairs = [
            (_walk(k, change, depth + 1), _walk(v, change, depth + 1)) for k, v in value.items()
        ]
        same = all(a is k and b is v for (a, b), (k, v) in zip(pairs, value.items(), strict=True))
        return value if same else dict(pairs)
    if isinstance(value, list | tuple | set | frozenset):
        return _walk_sequence(value, change, depth)
    if hasattr(value, "model_dump") or dataclasses.is_dataclass(value):
        return _walk_object(value, change, depth)
    return value


def _walk_sequence(value: Any, change: Callable[[str], str], depth: int) -> Any:
    entries = list(value)
    changed = [_walk(entry, change, depth + 1) for entry in entries]
    if all(a is b for a, b in zip(changed, entries, strict=True)):
        return value
    if hasattr(value, "_make"):
        return value._make(changed)
    return type(value)(changed)


def _walk_object(value: Any, change: Callable[[str], str], depth: int) -> Any:
    """Pydantic models and dataclasses: a shallow copy with changed attributes."""
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, type) or not attributes:
        return value
    changed = {
        name: new
        for name, old in attributes.items()
        if (new := _walk(old, change, depth + 1)) is not old
    }
    if not changed:
        return value
    clone = copy.copy(value)
    # Not setattr: models validate and frozen dataclasses refuse; the values keep their types.
    clone.__dict__.update(changed)
    return clone
