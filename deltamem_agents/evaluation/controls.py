"""Memories to compare with: the same messages in view, but another state behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deltamem_agents.core.state import MemoryState
from deltamem_agents.runtime.window import evict, visible_digests


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


def shuffled(memory: MemoryState, seed: int = 0) -> MemoryState:
    """The memory with the entries of each state matrix in random order: same size, no content.

    As with `emptied`, the visible messages are read on top of it.

    Args:
        memory: what is shuffled; its matrices are [layers, state heads, rank, rank].
        seed: of the order, which is another one for each matrix.
    """
    flat = memory.boundary_state.reshape(-1, memory.boundary_state[0, 0].size)
    mixed = np.random.default_rng(seed).permuted(flat, axis=1).reshape(memory.state.shape)
    return replace(memory, state=mixed, boundary_state=mixed)


def without_window(memory: MemoryState) -> MemoryState:
    """The memory once every message has left the window: what follows sees the state only."""
    gone = evict(memory.ledger, visible_digests(memory.ledger))
    return replace(memory, boundary_state=memory.state, ledger=replace(gone, visible=()))
