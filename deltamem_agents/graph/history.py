"""What a thread's past holds for a call whose memory does not fit its messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.place import Place
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY
from deltamem_agents.graph.steps import Steps


def earlier_memories(
    place: Place, state: Mapping[str, Any], start: MemoryState | None
) -> Steps[list[MemoryState | None]]:
    """The memories that a rebuild may begin from, the nearest first.

    Args:
        place: the checkpoint whose memory does not fit.
        state: the state there.
        start: the memory that new threads begin with.

    Returns:
        The different memories of the ancestors, newest first; then the memory that the thread began
        with, None if it began empty: from there everything is read again.
    """
    found: list[MemoryState | None] = []
    refused = state.get(MEMORY_KEY)
    for saved in (yield from place.ancestors()):
        memory = saved.checkpoint["channel_values"].get(MEMORY_KEY)
        if isinstance(memory, MemoryState) and memory != refused and memory not in found:
            found.append(memory)
    first = state.get(START_KEY) or start
    if first not in found:
        found.append(first)
    return found
