"""What a saved checkpoint holds: messages, memory, and the memory that its thread began with."""

from __future__ import annotations

from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY

MESSAGES_KEY = "messages"


def memory_in(saved: CheckpointTuple | None) -> MemoryState | None:
    """The memory that a checkpoint holds."""
    value = saved.checkpoint["channel_values"].get(MEMORY_KEY) if saved else None
    return value if isinstance(value, MemoryState) else None


def start_in(saved: CheckpointTuple | None) -> MemoryState | None:
    """The memory that the checkpoint's thread began with."""
    value = saved.checkpoint["channel_values"].get(START_KEY) if saved else None
    return value if isinstance(value, MemoryState) else None


def messages_in(saved: CheckpointTuple | None) -> list[AnyMessage]:
    """The messages that a checkpoint holds.

    Raises:
        ThreadHistoryError: they are kept as a chain of changes (DeltaChannel).
    """
    if saved is None:
        return []
    values = saved.checkpoint["channel_values"]
    if MESSAGES_KEY in values:
        return list(values[MESSAGES_KEY])
    if MESSAGES_KEY in saved.checkpoint["channel_versions"]:
        raise ThreadHistoryError(
            "the operators need the messages of a checkpoint as a list",
            got="a DeltaChannel, whose values are spread over older checkpoints",
            remedy="Keep `messages` with the add_messages reducer.",
        )
    return []
