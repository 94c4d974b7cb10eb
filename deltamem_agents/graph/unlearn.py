"""Forgetting: whole turns out of the thread, its past, its memory and the exact store.

1. Read the thread's checkpoints, oldest first, and name the turns that go.
2. Follow each branch and rebuild, at every checkpoint whose memory had read them, the memory from
   the messages that stay. The nearest untouched checkpoint is where reading begins again.
3. Delete the facts, rewrite the checkpoints in one transaction, drop what the process still holds.

Facts go first: when the second step fails, the same call can be made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.rewriting import (
    Rewrite,
    arewrite_checkpoints,
    rewrite_checkpoints,
)
from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ConfigError, ThreadHistoryError
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.reports import Forgotten
from deltamem_agents.graph.scrub import mentions, rewritten, texts_of
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread, memory_in, messages_in, start_in
from deltamem_agents.graph.transcript import Transcript
from deltamem_agents.graph.turns import (
    Predicate,
    Repeat,
    repeats,
    said_by,
    selected_turns,
)
from deltamem_agents.router import FactStore, HybridRouter, Scope
from deltamem_agents.router.typed import typed_values

Repeats = Literal["report", "forget"]


@dataclass
class Past:
    """The thread's checkpoints, and what is to be forgotten in them.

    Args:
        saved: all checkpoints of all namespaces, oldest first.
        namespace: the one whose memory is rebuilt.
        gone: ids of the forgotten messages.
        lost: the forgotten messages by id.
    """

    saved: list[CheckpointTuple]
    namespace: str
    gone: set[str] = field(default_factory=set)
    lost: dict[str, AnyMessage] = field(default_factory=dict)

    def own(self) -> list[CheckpointTuple]:
        """The checkpoints of the graph itself."""
        return [one for one in self.saved if namespace_of(one) == self.namespace]

    def tips(self) -> list[CheckpointTuple]:
        """The newest checkpoint of each branch."""
        parents = {parent_of(one) for one in self.own()}
        return [one for one in self.own() if id_of(one) not in parents]

    def choose(self, chosen: Collection[str] | Predicate) -> bool:
        """Add the turns that hold a chosen message; whether there were new ones."""
        before = len(self.gone)
        for one in self.own():
            for message in selected_turns(messages_in(one), chosen):
                if message.id and message.id not in self.gone:
                    self.gone.add(message.id)
                    self.lost[message.id] = message
        return len(self.gone) > before


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


def forget(
    thread: Thread, chosen: Collection[str] | Predicate, values: tuple[str, ...], mode: Repeats
) -> Steps[Forgotten]:
    """See `ThreadMemory.forget`."""
    if mode not in ("report", "forget"):
        raise ConfigError("repeats is 'report' or 'forget'", got=mode)
    past = Past((yield from _load(thread)), thread.place.namespace)
    _choose(past, chosen)
    if not past.gone:
        return Forgotten((), memory_in(past.own()[-1]) if past.own() else None)
    tip = past.own()[-1]
    reader, settings = yield from thread.reading(tip)
    scope = _scope(settings.router, thread)
    told = [*values, *_values(past.lost.values()), *_facts(settings.router, scope, past.gone)]
    found = _repeated(past, told)
    while mode == "forget" and found and past.choose({repeat.message_id for repeat in found}):
        told += _values(past.lost.values())
        found = _repeated(past, told)
    memories = yield from _memories(past, reader, settings.start)
    facts = yield from _forget_facts(settings.router, scope, past.gone)
    count = yield from _rewrite(thread, past, memories)
    reader.model.engine.live.clear()
    order = [message.id for one in past.own() for message in messages_in(one)]
    return Forgotten(
        message_ids=tuple(name for name in dict.fromkeys(order) if name in past.gone),
        memory=memories.get(id_of(tip)),
        repeats=tuple(found),
        channels=_channels(tip, told),
        checkpoints=count,
        facts=facts,
        purged=isinstance(thread.saver, SQLAlchemySaver),
    )


def _load(thread: Thread) -> Steps[list[CheckpointTuple]]:
    saver, config = thread.saver, {"configurable": {"thread_id": thread.place.thread}}

    async def alisted() -> list[CheckpointTuple]:
        return [one async for one in saver.alist(config)]  # type: ignore[arg-type]

    found: list[CheckpointTuple] = yield Effect(
        lambda: list(saver.list(config)),  # type: ignore[arg-type]
        alisted,
    )
    if not found:
        raise ThreadHistoryError("a thread has checkpoints", got=thread.place.thread)
    return sorted(found, key=lambda one: (namespace_of(one), id_of(one)))


def _choose(past: Past, chosen: Collection[str] | Predicate) -> None:
    past.choose(chosen)
    if callable(chosen):
        return
    unknown = [name for name in chosen if name not in past.gone]
    if unknown:
        raise ThreadHistoryError(
            "what is forgotten is a message of the thread",
            got=unknown,
            remedy="Take ids from graph.get_state(config).values['messages'], or pass a function.",
        )


def _values(messages: Iterable[AnyMessage]) -> list[str]:
    """Typed values that the user or a tool told; what the model made up tells nothing."""
    found = []
    for message in messages:
        if isinstance(message, AIMessage):
            continue
        text = said_by(message)
        found += [text[value.start : value.end] for value in typed_values(text)]
    return found


def _scope(router: HybridRouter | None, thread: Thread) -> Scope | None:
    if router is None:
        return None
    return Scope(router.store.tenant, str(thread.place.thread))


def _facts(router: HybridRouter | None, scope: Scope | None, gone: set[str]) -> list[str]:
    if router is None or scope is None or not isinstance(router.store, FactStore):
        return []
    known = router.store.facts(scope, closed=True, limit=10**6)
    return [fact.value for fact in known if fact.source_message_id in gone]


def _repeated(past: Past, values: Iterable[str]) -> list[Repeat]:
    """Messages of the branches' newest checkpoints that say a forgotten value again."""
    found: dict[tuple[str, str], Repeat] = {}
    for tip in past.tips():
        for repeat in repeats(messages_in(tip), values, without=past.gone):
            found[repeat.message_id, repeat.value] = repeat
    return list(found.values())


def _memories(
    past: Past, reader: Reader, start: MemoryState | None
) -> Steps[dict[str, MemoryState | None]]:
    """The memory of every checkpoint as if the forgotten turns had never been."""
    scripts: dict[str | None, Transcript] = {}
    result: dict[str, MemoryState | None] = {}
    known: dict[tuple[str, ...], MemoryState | None] = {}
    for one in past.own():
        memory, first = memory_in(one), start_in(one)
        base = first.ledger if first is not None else Ledger()
        before = scripts.get(parent_of(one)) or Transcript(reader.digests, base)
        script = before if before.base == base else Transcript(reader.digests, base)
        script = script.after(memory, messages_in(one))
        scripts[id_of(one)] = script
        names = tuple(heard.digest for heard in script.heard)
        if memory is None or not any(heard.message.id in past.gone for heard in script.heard):
            result[id_of(one)] = memory
            known[names] = memory
            continue
        kept = [heard for heard in script.heard if heard.message.id not in past.gone]
        stays = tuple(heard.digest for heard in kept)
        if stays not in known:
            nearest = max(
                (name for name in known if name == stays[: len(name)]), key=len, default=()
            )
            begin = known.get(nearest) or first
            messages = [heard.message for heard in kept]
            known[stays] = (yield from reader.read(begin, messages)) if messages else first
        result[id_of(one)] = known[stays]
    return result


def _forget_facts(
    router: HybridRouter | None, scope: Scope | None, gone: set[str]
) -> Steps[tuple[str, ...]]:
    if router is None or scope is None:
        return ()
    report = yield Effect(lambda: router.store.forget(scope, message_ids=sorted(gone)))
    return tuple(report.forgotten)


def _rewrite(thread: Thread, past: Past, memories: dict[str, MemoryState | None]) -> Steps[int]:
    changes = list(_changes(thread, past, memories))
    saver = thread.saver
    if isinstance(saver, SQLAlchemySaver):
        yield Effect(
            lambda: rewrite_checkpoints(saver, changes),
            lambda: arewrite_checkpoints(saver, changes),
        )
        return len(changes)
    for change in changes:
        versions = change.checkpoint["channel_versions"]
        arguments: Any = (change.config, change.checkpoint, change.metadata, versions)
        yield Effect(
            partial(saver.put, *arguments),
            partial(saver.aput, *arguments),
        )
    return len(changes)


def _changes(
    thread: Thread, past: Past, memories: dict[str, MemoryState | None]
) -> Iterable[Rewrite]:
    """The checkpoints that held what is forgotten, and those whose writes brought it."""
    holding = {_place(one): _holds(one, past, memories) for one in past.saved}
    bringing = {(namespace_of(one), parent_of(one)) for one in past.saved if holding[_place(one)]}
    versions = _Versions(thread)
    for one in past.saved:
        place = _place(one)
        if not holding[place] and place not in bringing and not _written(one, past):
            continue
        memory = _memory_of(one, past, memories)
        newest = messages_in(one)[-1:] if namespace_of(one) == past.namespace else []
        in_turn = bool(newest) and newest[0].id in past.gone
        brings = any(
            parent_of(child) == id_of(one) and _brings(one, child, past.gone)
            for child in past.saved
            if namespace_of(child) == namespace_of(one)
        )
        checkpoint = rewritten(one, past.gone, memory, versions, due_is_gone=in_turn or brings)
        parent = {**one.config["configurable"], "checkpoint_id": parent_of(one)}
        writes = holding[place] or place in bringing or _written(one, past)
        yield Rewrite({"configurable": parent}, checkpoint, one.metadata, writes)


class _Versions(dict[tuple[str, Any], Any]):
    """Makes a new version for each old one that is asked for."""

    def __init__(self, thread: Thread) -> None:
        super().__init__()
        self._next = thread.saver.get_next_version

    def __missing__(self, key: tuple[str, Any]) -> Any:
        self[key] = self._next(key[1], None)
        return self[key]

    def __contains__(self, key: object) -> bool:
        return True


def _place(saved: CheckpointTuple) -> tuple[str, str]:
    return namespace_of(saved), id_of(saved)


def _holds(saved: CheckpointTuple, past: Past, memories: dict[str, MemoryState | None]) -> bool:
    values = saved.checkpoint["channel_values"]
    return mentions(values, past.gone) or memory_in(saved) != _memory_of(saved, past, memories)


def _memory_of(
    saved: CheckpointTuple, past: Past, memories: dict[str, MemoryState | None]
) -> MemoryState | None:
    """A nested agent's memory that may have read it is dropped: it reads again at its next call."""
    if namespace_of(saved) == past.namespace:
        return memories[id_of(saved)]
    own = [one for one in past.saved if namespace_of(one) == namespace_of(saved)]
    heard = any(mentions(one.checkpoint["channel_values"], past.gone) for one in own)
    return None if heard else memory_in(saved)


def _written(saved: CheckpointTuple, past: Past) -> bool:
    return any(mentions(value, past.gone) for _, _, value in saved.pending_writes or ())


def _brings(saved: CheckpointTuple, child: CheckpointTuple, gone: Collection[str]) -> bool:
    """Whether what waits at a checkpoint becomes a forgotten message in its child."""
    there = {message.id for message in messages_in(saved)}
    return any(message.id in gone and message.id not in there for message in messages_in(child))


def _channels(tip: CheckpointTuple, values: Iterable[str]) -> tuple[str, ...]:
    """Other channels in which a forgotten value stands."""
    wanted = [value.lower() for value in values if len(value) > 2]
    return tuple(
        name
        for name, text in texts_of(tip).items()
        if any(value in text.lower() for value in wanted)
    )
