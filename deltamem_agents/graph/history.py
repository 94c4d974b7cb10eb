"""What a thread's past holds for a call whose memory does not fit its messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AnyMessage

from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.place import Place
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY
from deltamem_agents.graph.steps import Steps
from deltamem_agents.runtime.messages import roll
from deltamem_agents.runtime.window import at_boundary


def nearest_agreeing(
    reader: Reader,
    place: Place,
    state: Mapping[str, Any],
    messages: Sequence[AnyMessage],
    start: MemoryState | None,
) -> Steps[MemoryState | None]:
    """The memory of the nearest checkpoint that agrees with the messages, the rest read anew.

    Where no ancestor agrees, all is read again from the memory that the thread began with; where
    the ancestors are gone and so are messages that the memory has read, from the window's boundary.

    Args:
        reader: reads as the call does.
        place: the checkpoint whose memory does not fit.
        state: the state there.
        messages: the messages as they are now.
        start: the memory that new threads begin with.

    Returns:
        A memory to go on from; None for an empty one.
    """
    before: MemoryState | None = state.get(START_KEY) or start
    refused = state.get(MEMORY_KEY)
    complete = False
    for saved in (yield from place.ancestors()):
        complete = not saved.parent_config
        memory = saved.checkpoint["channel_values"].get(MEMORY_KEY)
        if isinstance(memory, MemoryState) and memory != refused:
            fits = reader.agrees(memory, messages)
            if fits:
                return memory
    if refused is not None and not complete and not _whole(reader, refused, messages):
        before = at_boundary(refused)
    return before


def _whole(reader: Reader, memory: MemoryState, messages: Sequence[AnyMessage]) -> bool:
    """Whether the messages still begin with what left the window."""
    count = memory.ledger.evicted_count
    return roll("", reader.digests(messages)[:count]) == memory.ledger.evicted
