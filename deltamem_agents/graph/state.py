"""What a graph's state holds beside the messages: the memory, and the memory it began with."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, get_type_hints

from langchain.agents.middleware.types import AgentState, PrivateStateAttr
from langchain_core.messages import AnyMessage
from typing_extensions import TypedDict

from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.channel import MemoryChannel, MergePolicy
from deltamem_agents.router.scope import HEAD_KEY

MEMORY_KEY = "delta_memory"
"""The channel that carries the memory of a thread."""
START_KEY = "delta_start"
"""The channel that keeps the memory a thread began with, if it did not begin empty."""


class MemoryAgentState(AgentState[Any]):
    """The state of an agent with a memory; the state schema of `DeltaMemMiddleware`.

    Attributes:
        delta_memory: the memory after the last message that a δ-mem model read or wrote. Private:
            not taken from the input and not in the output of `invoke`.
        delta_start: the memory the thread began with, where it began with one. Private.
        fact_head: what of the exact store this branch has told, where there is a router. Private.
    """

    delta_memory: NotRequired[Annotated[MemoryState | None, MemoryChannel(), PrivateStateAttr]]
    delta_start: NotRequired[Annotated[MemoryState | None, MemoryChannel(), PrivateStateAttr]]
    fact_head: NotRequired[Annotated[str | None, MemoryChannel(str), PrivateStateAttr]]


class MemoryNodeState(TypedDict):
    """What `memory_node` reads. LangGraph adds these channels to any graph the node is put in,
    without making them part of that graph's input or output.
    """  # noqa: D205

    messages: list[AnyMessage]
    delta_memory: NotRequired[Annotated[MemoryState | None, MemoryChannel()]]
    delta_start: NotRequired[Annotated[MemoryState | None, MemoryChannel()]]
    fact_head: NotRequired[Annotated[str | None, MemoryChannel(str)]]


def memory_schema(*, shared: bool = False, merge: MergePolicy = "raise") -> type[AgentState[Any]]:
    """The agent state schema with the memory's channel set up as asked.

    Args:
        shared: the memory belongs to the graph's input and output, so that a parent graph with
            the same channel and this agent have one memory.
        merge: what happens when two branches write it in one superstep (see `channel`).
    """
    if not shared and merge == "raise":
        return MemoryAgentState
    marks = () if shared else (PrivateStateAttr,)
    # The store's head is no memory; where branches may be merged, the next call makes a new one.
    heads: MergePolicy = "raise" if merge == "raise" else "replay"
    channels = {
        MEMORY_KEY: (MemoryState, merge),
        START_KEY: (MemoryState, "replay"),
        HEAD_KEY: (str, heads),
    }
    fields = {
        name: NotRequired[Annotated[(kind | None, MemoryChannel(kind, merge=policy), *marks)]]
        for name, (kind, policy) in channels.items()
    }
    bases = get_type_hints(AgentState, include_extras=True)
    return TypedDict("SharedMemoryAgentState", {**bases, **fields})  # type: ignore[operator,no-any-return]
