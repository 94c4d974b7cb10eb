"""What a database holds of a thread: its memories in time, its messages, its facts. No model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import StateError, ThreadHistoryError

if TYPE_CHECKING:
    from deltamem_agents.checkpoint import SQLAlchemySaver
    from deltamem_agents.router.facts import Fact

MOST = 80
"""Memories of a thread that are looked at one by one; of more, the newest."""


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
    """

    thread: str
    checkpoints: int
    memories: int
    tokens_written: int = 0
    norm: float = 0.0
    bytes: int = 0
    changed: datetime | None = None


@dataclass(frozen=True, eq=False)
class Point:
    """A checkpoint at which the memory changed.

    Attributes:
        checkpoint_id: LangGraph's id.
        parent: index of the point before it in this branch; None for the first.
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
    counts: dict[str, int] = {}
    for saved in saver.list(None):
        name = saved.config["configurable"]["thread_id"]
        counts[name] = counts.get(name, 0) + 1
    return [_summary(saver, name, count) for name, count in counts.items()]


def _summary(saver: SQLAlchemySaver, name: str, count: int) -> ThreadSummary:
    records = saver.memories(name, namespace=None)
    if not records:
        return ThreadSummary(name, count, 0)
    last = records[-1]
    return ThreadSummary(
        name, count, len(records), last.tokens_written, last.norm, last.bytes, _time(last.created)
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
        ThreadHistoryError: the thread has no memory.
        StateError: the state has several memories, and none is named.
    """
    records = saver.memories(thread, namespace=namespace)
    channels = sorted({r.channel for r in records})
    if channel is None and len(channels) > 1:
        raise StateError("one memory is looked at", got=channels, remedy="Pass `channel=`.")
    records = [r for r in records if channel in (None, r.channel)]
    if not records:
        raise ThreadHistoryError(
            "a thread with a memory is looked at",
            got=thread,
            remedy="See `deltamem inspect DATABASE` for the threads there are.",
        )
    where: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": namespace}
    points = _points(saver, where, records[-MOST:])
    newest = saver.get_tuple(RunnableConfig(configurable=where))
    values = newest.checkpoint["channel_values"] if newest else {}
    said = [m for m in values.get("messages", []) if isinstance(m, BaseMessage)]
    facts = _facts(saver, thread)
    return Course(thread, saver.tenant, len(records), tuple(points), tuple(said), facts)


def _points(
    saver: SQLAlchemySaver, where: dict[str, Any], records: Sequence[Any]
) -> list[Point]:
    """The memories that differ from their parent's; a checkpoint that changed nothing is none."""
    points: list[Point] = []
    standing: dict[str, int] = {}  # checkpoint -> the point whose memory it has
    for record in records:
        config = RunnableConfig(configurable={**where, "checkpoint_id": record.checkpoint_id})
        memory = saver.memory_at(config, record.channel)
        if memory is None:
            continue
        parent = standing.get(record.parent_id)
        before = points[parent].memory if parent is not None else None
        if before is not None and before == memory:
            assert parent is not None
            standing[record.checkpoint_id] = parent
            continue
        comparable = before is not None and before.fingerprint == memory.fingerprint
        drift = memory.diff(before).norm if before is not None and comparable else memory.norm
        standing[record.checkpoint_id] = len(points)
        points.append(
            Point(record.checkpoint_id, parent, _time(record.created), drift, memory)
        )
    parents = {point.parent for point in points}
    return [
        Point(p.checkpoint_id, p.parent, p.created, p.drift, p.memory, index not in parents)
        for index, p in enumerate(points)
    ]


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
