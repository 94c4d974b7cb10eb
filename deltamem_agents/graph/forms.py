"""Messages as they were told: the mappings and pairs of which LangGraph makes messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, HumanMessage

Said: TypeAlias = tuple[str, str]
"""The type of a message and its text."""
Name: TypeAlias = str | Said
"""What tells a message from others: its id; of one without, who says what."""

_TYPES = {
    **{name: name for name in ("human", "ai", "system", "tool", "function", "remove")},
    **{"user": "human", "assistant": "ai", "developer": "system"},
}


def name_of(value: Any) -> Name | None:
    """The name of a message, made or as it was told; None where the value is none."""
    if isinstance(value, BaseMessage):
        return value.id or said(value)
    if isinstance(value, Mapping):
        return _of_mapping(value)
    if isinstance(value, list | tuple) and len(value) == 2:
        role, text = value  # ("user", "hello"); stored as a list
        if isinstance(role, str) and isinstance(text, str) and role in _TYPES:
            return _TYPES[role], text
    return None


def said(message: BaseMessage) -> Said | None:
    """Who says what; None where nothing is said."""
    return (_type(message.type), str(message.text)) if message.text else None


def _of_mapping(value: Mapping[Any, Any]) -> Name | None:
    inner = value.get("data") or value.get("kwargs")  # messages_to_dict, dumpd
    if value.get("type") in (*_TYPES, "constructor") and isinstance(inner, Mapping):
        value = inner
    kind = value.get("role") or value.get("type")
    if not isinstance(kind, str) or _type(kind) not in _TYPES:
        return None
    if value.get("id"):
        return str(value["id"])
    content = value.get("content")
    parts: list[Any] = content if isinstance(content, list) else [content]
    if not all(isinstance(part, str | dict) for part in parts):
        return None
    text = str(HumanMessage(content=parts).text)
    return (_TYPES[_type(kind)], text) if text else None


def _type(kind: str) -> str:
    return kind.removesuffix("MessageChunk").lower()
