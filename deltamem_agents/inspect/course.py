"""What a database holds of a thread: its memories in time, its messages, its facts. No model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import StateError, ThreadHistoryError
from deltamem_agents.inspect.presence import without_memory

if TYPE_CHECKING:
    from deltamem_agents.checkpoint import SQLAlchemySaver
    from deltamem_agents.checkpoint.memories import MemoryRecord
    from deltamem_agents.router.facts import Fact

MOST = 80
"""Changes of a thread's memory that are looked at one by one; of more, the newest."""


@dataclass(frozen=True)
class ThreadSummary:
    """One thread of a database.

    Attributes:
        thread: its id.
        checkpoints: how many there are, over all namespaces.
        memories: how many of them carry a memory.
        tokens_written: by the newest memory; 0 without one.
        norm: of the newest memory.
        bytes: of one memory's arrays.
        changed: when the newest memory was stored; None without one.
        norms: of the memory at each of its changes, oldest first.
    """

    thread: str
    checkpoints: int
    memories: int
    tokens_written: int = 0
    norm: float = 0.0
    bytes: int = 0
    changed: datetime | None = None
    norms: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Point:
    """A checkpoint at which the memory changed.

    Attributes:
        checkpoint_id: LangGraph's id.
        parent: index of the point before it in this branch; None for the first, and where that
            one is not among the points.
        created: when, UTC.
        drift: norm of the change since the parent (since zero, for the first).
        memory: the memory itself.
        newest: whether no later point follows it: the end of a branch.
    """

    checkpoint_id: str
    parent: int | None
    created: datetime
    drift: float
    memory: MemoryState
    newest: bool = False


@dataclass(frozen=True, eq=False)
class Course:
    """A thread as `deltamem inspect` shows it.

    Attributes:
        thread: its id.
        tenant: whose.
        checkpoints: how many carry a memory.
        points: those at which the memory changed, oldest first.
        messages: of the newest checkpoint.
        facts: of all branches, closed ones included.
    """

    thread: str
    tenant: str
    checkpoints: int
    points: tuple[Point, ...]
    messages: tuple[BaseMessage, ...] = ()
    facts: tuple[Fact, ...] = field(default=(), repr=False)

    @property
    def last(self) -> Point:
        """The newest point."""
        return self.points[-1]

    def point(self, checkpoint_id: str) -> Point:
        """The point of a checkpoint, named by its id or the end of it.

        Raises:
            ThreadHistoryError: no point, or several, have that name.
        """
        found = [p for p in self.points if p.checkpoint_id.endswith(checkpoint_id)]
        if len(found) != 1:
            raise ThreadHistoryError(
                "a checkpoint is named by its id or the end of it",
                got=f"{checkpoint_id}, which {len(found)} of {len(self.points)} memories have",
                remedy="Take an id from `deltamem inspect DATABASE --thread THREAD`.",
            )
        return found[0]


def threads(saver: SQLAlchemySaver) -> list[ThreadSummary]:
    """The tenant's threads, the one that changed last first."""
    return [_summary(saver, one.thread_id, one.checkpoints) for one in saver.threads()]


def _summary(saver: SQLAlchemySaver, name: str, count: int) -> ThreadSummary:
    records = saver.memories(name, namespace=None)
    if not records:
        return ThreadSummary(name, count, 0)
    last = records[-1]
    return ThreadSummary(
        thread=name,
        checkpoints=count,
        memories=len(records),
        tokens_written=last.tokens_written,
        norm=last.norm,
        bytes=last.bytes,
        changed=_time(last.created),
        norms=tuple(record.norm for record, _ in _changes(records)),
    )


def course(
    saver: SQLAlchemySaver, thread: str, *, namespace: str = "", channel: str | None = None
) -> Course:
    """Read a thread's memories, messages and facts.

    Args:
        saver: an opened database.
        thread: the thread's id.
        namespace: of a subgraph; "" for the graph itself.
        channel: of the memory, where the state has several.

    Raises:
        ThreadHistoryError: there is no such thread, or it has no memory, or none in this namespace.
        StateError: the state has several memories, and none is named.
    """
    records = saver.memories(thread, namespace=namespace)
    channels = sorted({r.channel for r in records})
    if channel is None and len(channels) > 1:
        raise StateError("one memory is looked at", got=channels, remedy="Pass `channel=`.")
    records = [r for r in records if channel in (None, r.channel)]
    if not records:
        raise without_memory(saver, thread, namespace)
    where: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": namespace}
    points = _points(saver, where, records)
    newest = saver.get_tuple(RunnableConfig(configurable=where))
    values = newest.checkpoint["channel_values"] if newest else {}
    said = [m for m in values.get("messages", []) if isinstance(m, BaseMessage)]
    facts = _facts(saver, thread)
    return Course(thread, saver.tenant, len(records), tuple(points), tuple(said), facts)


def _changes(
    records: Sequence[MemoryRecord],
) -> list[tuple[MemoryRecord, MemoryRecord | None]]:
    """The memories that differ from the one before them in their branch, each with that one.

    Told by the numbers beside them, so that a long thread's memories need not be loaded.
    """
    standing: dict[str, MemoryRecord] = {}  # checkpoint -> where its memory came to be
    changes: list[tuple[MemoryRecord, MemoryRecord | None]] = []
    for record in records:
        before = standing.get(record.parent_id or "")
        if before is None or _numbers(before) != _numbers(record):
            changes.append((record, before))
            standing[record.checkpoint_id] = record
        else:
            standing[record.checkpoint_id] = before
    return changes


def _numbers(record: MemoryRecord) -> tuple[Any, ...]:
    return record.channel, record.adapter, record.tokens_written, record.norm


def _points(
    saver: SQLAlchemySaver, where: dict[str, Any], records: Sequence[MemoryRecord]
) -> list[Point]:
    """The newest changes, with their memories."""
    loaded: dict[str, MemoryState | None] = {}

    def load(record: MemoryRecord) -> MemoryState | None:
        name = record.checkpoint_id
        if name not in loaded:
            config = RunnableConfig(configurable={**where, "checkpoint_id": name})
            loaded[name] = saver.memory_at(config, record.channel)
        return loaded[name]

    points: list[Point] = []
    places: dict[str, int] = {}
    for record, earlier in _changes(records)[-MOST:]:
        memory, before = load(record), load(earlier) if earlier is not None else None
        if memory is None:  # removed since the records were read
            continue
        comparable = before is not None and before.fingerprint == memory.fingerprint
        drift = memory.diff(before).norm if before is not None and comparable else memory.norm
        parent = places.get(earlier.checkpoint_id) if earlier is not None else None
        places[record.checkpoint_id] = len(points)
        points.append(Point(record.checkpoint_id, parent, _time(record.created), drift, memory))
    parents = {point.parent for point in points}
    return [replace(p, newest=index not in parents) for index, p in enumerate(points)]


def _facts(saver: SQLAlchemySaver, thread: str) -> tuple[Fact, ...]:
    """The thread's facts, if the database has a fact store; looking makes no tables."""
    from sqlalchemy import inspect

    from deltamem_agents.checkpoint.fact_tables import fact_tables
    from deltamem_agents.router import FactStore, Scope

    tables = saver.context.tables
    wanted = fact_tables(tables.schema, tables.prefix).vectors.name
    if not inspect(saver.engine).has_table(wanted, schema=tables.schema):
        return ()
    return FactStore(saver).facts(Scope(saver.tenant, thread), closed=True)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
