"""ChatDeltaMem: LangChain messages in and out of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltamem_agents.chat.conversation import ChatSession
    from deltamem_agents.chat.model import ChatDeltaMem
    from deltamem_agents.runtime.slot import MemorySlot

__all__ = ["ChatDeltaMem", "ChatSession", "MemorySlot"]

_HOMES = {
    "ChatDeltaMem": "deltamem_agents.chat.model",
    "ChatSession": "deltamem_agents.chat.conversation",
    "MemorySlot": "deltamem_agents.runtime.slot",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
