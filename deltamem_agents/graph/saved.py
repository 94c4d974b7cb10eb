"""What a saved checkpoint holds: messages, memory, and the memory that its thread began with."""

from __future__ import annotations

from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY

MESSAGES_KEY = "messages"

Place = tuple[str, str]
"""Namespace and id of a checkpoint: unique within a thread."""


def id_of(saved: CheckpointTuple) -> str:
    """The checkpoint's id."""
    return saved.checkpoint["id"]


def parent_of(saved: CheckpointTuple) -> str | None:
    """The id of the checkpoint before it."""
    parent = (saved.parent_config or {}).get("configurable", {})
    name: str | None = parent.get("checkpoint_id")
    return name


def namespace_of(saved: CheckpointTuple) -> str:
    """The namespace of its (sub)graph."""
    name: str = saved.config["configurable"].get("checkpoint_ns", "")
    return name


def place_of(saved: CheckpointTuple) -> Place:
    """Where it is stored within its thread."""
    return namespace_of(saved), id_of(saved)


def ran_once(saved: CheckpointTuple) -> bool:
    """Whether an agent inside the graph kept this for one call only (its task is in the name)."""
    return ":" in namespace_of(saved).rpartition("|")[2]


def memory_in(saved: CheckpointTuple | None) -> MemoryState | None:
    """The memory that a checkpoint holds."""
    value = saved.checkpoint["channel_values"].get(MEMORY_KEY) if saved else None
    return value if isinstance(value, MemoryState) else None


def start_in(saved: CheckpointTuple | None) -> MemoryState | None:
    """The memory that the checkpoint's thread began with."""
    value = saved.checkpoint["channel_values"].get(START_KEY) if saved else None
    return value if isinstance(value, MemoryState) else None


def has_messages(saved: CheckpointTuple) -> bool:
    """Whether the checkpoint holds its messages itself, not as a change to older ones."""
    values = saved.checkpoint["channel_values"]
    return MESSAGES_KEY in values or MESSAGES_KEY not in saved.checkpoint["channel_versions"]


def messages_in(saved: CheckpointTuple | None) -> list[AnyMessage]:
    """The messages that a checkpoint holds.

    Raises:
        ThreadHistoryError: they are kept as a chain of changes (DeltaChannel), not made whole.
    """
    if saved is None:
        return []
    if not has_messages(saved):
        raise ThreadHistoryError(
            "the graph tells how its messages add up",
            got="a DeltaChannel, whose values are spread over older checkpoints",
            remedy="Pass the compiled graph that wrote them.",
        )
    found = saved.checkpoint["channel_values"].get(MESSAGES_KEY, ())
    return list(found.value if isinstance(found, _DeltaSnapshot) else found)
