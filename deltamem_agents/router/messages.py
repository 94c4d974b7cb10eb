"""Messages as the store reads them: LangChain messages and plain dicts alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from deltamem_agents.errors import ConfigError
from deltamem_agents.router.facts import Asserter

_ROLES: dict[str, Asserter] = {
    "user": "user",
    "human": "user",
    "tool": "tool",
    "function": "tool",
    "assistant": "assistant",
    "ai": "assistant",
}


@dataclass(frozen=True)
class Heard:
    """A message reduced to what extraction needs.

    Attributes:
        role: who says it, None for system and other messages that assert nothing.
        text: its text blocks joined.
        message_id: "" if it has none.
    """

    role: Asserter | None
    text: str
    message_id: str

    @property
    def digest(self) -> str:
        """The same message heard again has the same digest; the same words said again do not."""
        parts = json.dumps([self.role, self.text, self.message_id])
        return hashlib.sha256(parts.encode("ascii")).hexdigest()


Message = BaseMessage | Mapping[str, Any] | str


def heard(message: Message) -> Heard:
    """Reads a message.

    Args:
        message: a LangChain message, a dict with `role` and `content`, or a user's text.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(message, str):
        return Heard("user", message, "")
    if isinstance(message, BaseMessage):
        return Heard(_ROLES.get(message.type), _text(message.content), message.id or "")
    if isinstance(message, Mapping) and "content" in message:
        role = str(message.get("role") or message.get("type") or "user")
        return Heard(_ROLES.get(role), _text(message["content"]), str(message.get("id") or ""))
    raise ConfigError(
        "a message is a LangChain message, a dict with role and content, or a text",
        got=type(message).__name__,
        remedy="Convert it, for example with HumanMessage(text).",
    )


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    parts = [block if isinstance(block, str) else _block(block) for block in blocks]
    return "\n".join(part for part in parts if part)


def _block(block: object) -> str:
    if isinstance(block, Mapping) and block.get("type") in (None, "text"):
        return str(block.get("text") or "")
    return ""
