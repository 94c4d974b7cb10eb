"""Puts a thread's past in place again as if the forgotten turns had never been."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from sqlalchemy import Connection

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.rewriting import (
    Rewrite,
    arewrite_checkpoints,
    rewrite_checkpoints,
)
from deltamem_agents.checkpoint.stamps import athread_stamp, thread_stamp
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConflictError
from deltamem_agents.graph.facts import ThreadFacts
from deltamem_agents.graph.forms import Name
from deltamem_agents.graph.past import FORGOTTEN_KEY, Past, hashed
from deltamem_agents.graph.saved import (
    id_of,
    memory_in,
    messages_in,
    namespace_of,
    parent_of,
    place_of,
    ran_once,
)
from deltamem_agents.graph.scrub import mentions, rewritten
from deltamem_agents.graph.state import MEMORY_KEY
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread

Stamp = bytes | frozenset[Any]
"""What a thread held at one moment: a hash of its rows; of other savers' threads an extract."""


def stamp_of(thread: Thread) -> Steps[Stamp]:
    """What `rewrite_past` compares; taken before the past is read."""
    saver, name = thread.saver, str(thread.place.thread)
    if isinstance(saver, SQLAlchemySaver):
        stamp: Stamp = yield Effect(
            lambda: thread_stamp(saver, name), lambda: athread_stamp(saver, name)
        )
        return stamp
    config: Any = {"configurable": {"thread_id": name}}

    async def alisted() -> Stamp:
        return frozenset([_extract(one) async for one in saver.alist(config)])

    stamp = yield Effect(lambda: frozenset(map(_extract, saver.list(config))), alisted)
    return stamp


def _extract(saved: CheckpointTuple) -> tuple[Any, ...]:
    """All of a checkpoint that changes when it is written to."""
    metadata: Any = saved.metadata
    return (
        place_of(saved),
        repr(sorted(saved.checkpoint["channel_versions"].items())),
        repr(sorted(write[:2] for write in saved.pending_writes or ())),
        tuple(metadata.get(FORGOTTEN_KEY, ())),
    )


def rewrite_past(
    thread: Thread,
    past: Past,
    memories: dict[str, MemoryState | None],
    facts: ThreadFacts,
    read: Stamp,
    names: Collection[Name],
) -> Steps[tuple[int, list[str], bool]]:
    """Store what changed; on our saver in one transaction with the facts beside it.

    Args:
        thread: where.
        past: what is forgotten in it.
        memories: of each of the graph's checkpoints.
        facts: of the thread.
        read: the thread's `stamp_of`, from before the past was read.
        names: of the forgotten messages.

    Returns:
        How many checkpoints, which facts are gone, and whether the database holds their old
        content no more.

    Raises:
        ConflictError: others have written to the thread since; nothing is rewritten.
    """
    changes = _marked(list(_changes(thread, past, memories, names)), past)
    saver = thread.saver
    if isinstance(saver, SQLAlchemySaver):
        gone: list[str] = []

        def beside(connection: Connection) -> None:
            gone[:] = facts.forget_beside(past.gone, connection)

        assert isinstance(read, bytes)  # `stamp_of` asked the same saver
        removal = yield Effect(
            lambda: rewrite_checkpoints(saver, changes, beside, read),
            lambda: arewrite_checkpoints(saver, changes, beside, read),
        )
        facts.uncached()
        return len(changes), gone, removal.purged and not past.undecided
    if (yield from stamp_of(thread)) != read:
        raise ConflictError(
            "a thread stays as it was read until it is rewritten",
            got=f"thread {thread.place.thread!r}, to which others wrote meanwhile",
            remedy="Try again when no run of the thread is going on.",
        )
    # Newest first: what was there before tells a second call what the first has done.
    for change in reversed(changes):
        place = (change.config["configurable"]["checkpoint_ns"], change.checkpoint["id"])
        values, links = change.checkpoint["channel_values"], past.chains.changes[place]
        versions = {
            name: version
            for name, version in change.checkpoint["channel_versions"].items()
            if name in values or name not in links
        }
        arguments: Any = (change.config, change.checkpoint, change.metadata, versions)
        yield Effect(
            partial(saver.put, *arguments),
            partial(saver.aput, *arguments),
        )
    return len(changes), [], False


def finish(thread: Thread, facts: ThreadFacts, gone: set[str]) -> Steps[tuple[list[str], bool]]:
    """Do the rest of a call that ended after its transaction: facts of other stores, and bytes.

    Returns:
        Which facts are gone, and whether the database holds old content no more.
    """
    ids, purged = yield from facts.forget_apart(gone)
    saver = thread.saver
    if not isinstance(saver, SQLAlchemySaver):
        return ids, False
    return ids, (yield Effect(saver.purge, saver.apurge)) and purged


def _marked(changes: list[Rewrite], past: Past) -> list[Rewrite]:
    """The newest one tells which messages were forgotten, by hash: so a call can be repeated."""
    last = max(place for place, one in enumerate(changes) if _is_own(one, past))
    metadata: Any = changes[last].metadata
    hashes = sorted({*metadata.get(FORGOTTEN_KEY, ()), *map(hashed, past.gone)})
    marked: Any = {**metadata, FORGOTTEN_KEY: hashes}
    changes[last] = replace(changes[last], metadata=marked)
    return changes


def _is_own(change: Rewrite, past: Past) -> bool:
    return bool(change.config["configurable"]["checkpoint_ns"] == past.namespace)


def _changes(
    thread: Thread,
    past: Past,
    memories: dict[str, MemoryState | None],
    names: Collection[Name],
) -> Iterable[Rewrite]:
    """The checkpoints that held what is forgotten, and those whose writes brought it."""
    holding = {place_of(one): _holds(one, past, memories, names) for one in past.saved}
    bringing = {(namespace_of(one), parent_of(one)) for one in past.saved if holding[place_of(one)]}
    owned = isinstance(thread.saver, SQLAlchemySaver)
    links = past.chains.plan(past.saved, names, past.derived, owned=owned)
    versions = _versions(thread, past)
    children: dict[tuple[str, str | None], list[CheckpointTuple]] = {}
    for one in past.saved:
        children.setdefault((namespace_of(one), parent_of(one)), []).append(one)
    for one in past.saved:
        place = place_of(one)
        writes = holding[place] or place in bringing or _written(one, names)
        if not writes and place not in links.new:
            continue
        memory = _memory_of(one, past, memories)
        brings = any(_brings(one, child, past.gone) for child in children.get(place, ()))
        due_is_gone = brings or past.in_turn(one)
        anew = links.new.get(place, ())
        checkpoint = rewritten(one, names, memory, versions, due_is_gone=due_is_gone, anew=anew)
        checkpoint = links.folded(place, checkpoint, past.chains.changes[place])
        waits = place not in children and not past.in_turn(one)
        kept = _kept_writes(one, names, links.kept.get(place, ()), waits=waits)
        if past.derived(one) and ran_once(one):
            checkpoint = {**checkpoint, "channel_values": links.emptied(place)}
            kept = frozenset()
        parent = {**one.config["configurable"], "checkpoint_id": parent_of(one)}
        yield Rewrite({"configurable": parent}, checkpoint, one.metadata, writes, kept)


def _versions(thread: Thread, past: Past) -> dict[tuple[str, Any], Any]:
    """A new version for each channel's old one, in the same order and above all there are.

    Savers that count in whole numbers would else give a value the version of another one.
    """
    kinds: dict[type, set[tuple[str, Any]]] = {}
    for one in past.saved:
        held = one.checkpoint
        for channels in (held["channel_versions"], *held["versions_seen"].values()):
            for name, version in channels.items():
                kinds.setdefault(type(version), set()).add((name, version))
    result = {}
    for pairs in kinds.values():
        newest = max(version for _, version in pairs)
        for name, version in sorted(pairs, key=lambda pair: (pair[1], pair[0])):
            newest = result[name, version] = thread.saver.get_next_version(newest, None)
    return result


def _holds(
    saved: CheckpointTuple,
    past: Past,
    memories: dict[str, MemoryState | None],
    names: Collection[Name],
) -> bool:
    values = saved.checkpoint["channel_values"]
    if past.derived(saved):
        return True
    return mentions(values, names) or memory_in(saved) != _memory_of(saved, past, memories)


def _memory_of(
    saved: CheckpointTuple, past: Past, memories: dict[str, MemoryState | None]
) -> MemoryState | None:
    """A nested agent's memory that may have read it is dropped: it reads again at its next call."""
    if namespace_of(saved) == past.namespace:
        return memories[id_of(saved)]
    return None if namespace_of(saved) in past.nested else memory_in(saved)


def _written(saved: CheckpointTuple, names: Collection[Name]) -> bool:
    return any(mentions(value, names) for _, _, value in saved.pending_writes or ())


def _kept_writes(
    saved: CheckpointTuple, gone: Collection[Name], channels: Collection[str], *, waits: bool
) -> frozenset[tuple[str, str]]:
    """Writes, by task and channel, that stay while others at their checkpoint go.

    A later checkpoint's DeltaChannels are read from them; or a run waits there, at an interrupt or
    after a crash, and goes on with what its other tasks have done. A memory among that may have
    read what is forgotten: it goes, and what it had read is read at the next call.

    Args:
        saved: the checkpoint.
        gone: names of the forgotten messages.
        channels: those of the DeltaChannels.
        waits: whether a run of a turn that stays may go on there.
    """
    writes = saved.pending_writes or ()
    telling = {(task, name) for task, name, value in writes if mentions(value, gone)}
    stays = {(task, name) for task, name, _ in writes if waits and name != MEMORY_KEY} - telling
    return frozenset(stays | {(task, name) for task, name, _ in writes if name in channels})


def _brings(saved: CheckpointTuple, child: CheckpointTuple, gone: Collection[str]) -> bool:
    """Whether what waits at a checkpoint becomes a forgotten message in its child."""
    there = {message.id for message in messages_in(saved)}
    return any(message.id in gone and message.id not in there for message in messages_in(child))
