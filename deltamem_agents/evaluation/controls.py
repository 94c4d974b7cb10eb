"""Memories to compare with: the same messages in view, but another state behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deltamem_agents.core.state import MemoryState


def emptied(memory: MemoryState) -> MemoryState:
    """The memory of the same conversation as if all that left the window had left no trace.

    The ledger stays, so the engine shows the model the same messages; it reads the visible ones
    again, from a state of zeros.
    """
    zeros = np.zeros_like(memory.state)
    return replace(memory, state=zeros, boundary_state=zeros)


def swapped(memory: MemoryState, other: MemoryState) -> MemoryState:
    """The memory of one conversation behind the messages of another.

    As with `emptied`, the visible messages are read on top of it.
    """
    return replace(memory, state=other.boundary_state, boundary_state=other.boundary_state)
