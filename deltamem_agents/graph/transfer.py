"""A memory that leaves its thread: to a file, from a file, to another thread. Only on request."""

from __future__ import annotations

from os import PathLike

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import StateError
from deltamem_agents.graph.saved import memory_in
from deltamem_agents.graph.starting import sealed
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread, required
from deltamem_agents.graph.writing import following, put, refuse_running


def export(thread: Thread, path: str | PathLike[str]) -> Steps[MemoryState]:
    """See `ThreadMemory.export`."""
    memory = required((yield from thread.memory()), thread.place.thread)
    yield Effect(lambda: memory.save(path))
    return memory


def begin_with(
    thread: Thread, source: MemoryState | str | PathLike[str], *, replace: bool
) -> Steps[MemoryState]:
    """See `ThreadMemory.import_from`."""
    tip = yield from thread.tip()
    refuse_running(tip)
    if isinstance(source, MemoryState):
        memory = source
    else:
        memory = yield Effect(lambda: MemoryState.load(source))
    reader, _ = yield from thread.reading(tip)
    _fits(memory, reader.model.engine.fingerprint)
    if memory_in(tip) is not None and not replace:
        raise StateError(
            "a thread has one memory",
            got=memory_in(tip),
            remedy="Choose a new thread, or pass replace=True to leave its memory behind.",
        )
    first = sealed(memory)
    changes = {MEMORY_KEY: first, START_KEY: first}
    yield from put(thread.saver, following(thread, tip, changes))
    return first


def copy_to(thread: Thread, other: str, *, replace: bool) -> Steps[MemoryState]:
    """See `ThreadMemory.copy_to`."""
    memory = required((yield from thread.memory()), thread.place.thread)
    return (yield from begin_with(thread.at(other), memory, replace=replace))


def _fits(memory: MemoryState, fingerprint: str) -> None:
    if memory.fingerprint != fingerprint:
        raise StateError(
            "a memory is used with the adapter, backbone, template and write policy that made it",
            got=f"a memory of {memory.fingerprint[:12]}, a model of {fingerprint[:12]}",
            remedy="Use the model that the memory was made with.",
        )
