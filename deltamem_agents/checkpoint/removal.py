"""Taking away: threads, runs, old checkpoints, and the blobs that nothing refers to any more.

A checkpoint that goes may still be needed: a `DeltaChannel` keeps a value as a chain of writes
back to the nearest stored one. Such a checkpoint is not deleted but hidden: no listing shows it
and no read finds it, only the history of its descendants' DeltaChannels runs through it. It goes
when the last of them goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, or_, select, union, update

from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.fact_tables import delete_scope_facts, fact_tables
from deltamem_agents.checkpoint.rows import text
from deltamem_agents.errors import CorruptStorageError

CHUNK = 400


@dataclass(frozen=True)
class Removal:
    """What an operation took away (or, in a dry run, would take away).

    Attributes:
        threads: threads of which nothing is left.
        checkpoints: checkpoints that are gone from every listing.
        hidden: those of them that are kept, out of sight, for a DeltaChannel's history.
        writes: pending writes.
        facts: rows of the exact store.
        blobs: contents that nothing refers to any more.
        bytes: bytes of these contents as stored.
    """

    threads: int = 0
    checkpoints: int = 0
    hidden: int = 0
    writes: int = 0
    facts: int = 0
    blobs: int = 0
    bytes: int = 0

    def __add__(self, other: Removal) -> Removal:
        return Removal(*(getattr(self, name) + getattr(other, name)
                         for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Held:
    """A checkpoint's row, as far as removal needs it."""

    row: int
    namespace_key: bytes
    checkpoint_id: str
    parent_id: str | None
    created: int
    hidden: bool
    deltas: tuple[str, ...]

    @property
    def place(self) -> tuple[bytes, str]:
        """Unique within a thread."""
        return self.namespace_key, self.checkpoint_id


def chunks(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Parts that fit into one statement."""
    for start in range(0, len(entries), CHUNK):
        yield entries[start:start + CHUNK]


def load_thread(connection: Connection, context: Context, thread_id: str) -> list[Held]:
    """All checkpoints of a thread, newest first."""
    table = context.tables.checkpoints
    rows = connection.execute(
        select(table.c.id, table.c.namespace_key, table.c.checkpoint_id, table.c.parent_id,
               table.c.created, table.c.hidden, table.c.deltas)
        .where(table.c.tenant == context.tenant, table.c.thread_id == thread_id)
    ).all()
    held = [
        Held(row[0], bytes(row[1]), text(row[2]), None if row[3] is None else text(row[3]),
             row[4], bool(row[5]), _names(row[6]))
        for row in rows
    ]
    return sorted(held, key=lambda entry: entry.checkpoint_id, reverse=True)


def _names(stored: str | None) -> tuple[str, ...]:
    if stored is None:
        return ()
    try:
        names = json.loads(stored)
    except ValueError as error:
        raise CorruptStorageError("the names of DeltaChannels are JSON", got=stored) from error
    return tuple(str(name) for name in names)


def delete_thread(connection: Connection, context: Context, thread_id: str) -> Removal:
    """Everything of one thread: checkpoints, writes, memories, facts, its fence."""
    tables = context.tables
    scope = [
        and_(table.c.tenant == context.tenant, table.c.thread_id == thread_id)
        for table in (tables.checkpoints, tables.writes)
    ]
    numbers = select(tables.checkpoints.c.id).where(scope[0])
    blobs = _blobs(connection, [
        select(tables.channels.c.blob).where(tables.channels.c.checkpoint.in_(numbers)),
        select(tables.writes.c.blob).where(scope[1]),
    ])
    for table in (tables.memory_states, tables.channels):
        connection.execute(delete(table).where(table.c.checkpoint.in_(numbers)))
    writes = connection.execute(delete(tables.writes).where(scope[1])).rowcount
    visible = connection.scalar(
        select(func.count()).where(scope[0], tables.checkpoints.c.hidden == 0)) or 0
    count = connection.execute(delete(tables.checkpoints).where(scope[0])).rowcount
    facts = delete_scope_facts(
        connection, context.tenant, thread_id, fact_tables(tables.schema, tables.prefix))
    connection.execute(delete(tables.fences).where(
        tables.fences.c.tenant == context.tenant, tables.fences.c.thread_id == thread_id))
    removal = Removal(int(count > 0), visible, 0, writes, facts)
    return removal + collect(connection, context, blobs)


def _blobs(connection: Connection, queries: Sequence[Any]) -> list[bytes]:
    """Distinct hashes that the rows refer to."""
    rows = connection.execute(union(*queries)).all()
    return sorted(bytes(row[0]) for row in rows if row[0] is not None)


def collect(connection: Connection, context: Context, candidates: Sequence[bytes]) -> Removal:
    """Delete those of the blobs that no channel and no write refers to."""
    tables = context.tables
    hashes = tables.blobs.c.hash
    free = [
        ~select(table.c.blob).where(table.c.blob == hashes).correlate(tables.blobs).exists()
        for table in (tables.channels, tables.writes)
    ]
    count = size = 0
    for part in chunks(candidates):
        where = and_(hashes.in_(part), tables.blobs.c.tenant == context.tenant, *free)
        size += connection.scalar(
            select(func.coalesce(func.sum(func.length(tables.blobs.c.data)), 0)).where(where)) or 0
        count += connection.execute(delete(tables.blobs).where(where)).rowcount
    return Removal(blobs=count, bytes=int(size))


def remove(
    connection: Connection, context: Context, thread_id: str, held: Sequence[Held],
    doomed: Iterable[int],
) -> Removal:
    """Remove the doomed checkpoints of a thread, but not what the others' DeltaChannels need."""
    doomed = set(doomed)
    survivors = [entry for entry in held if not entry.hidden and entry.row not in doomed]
    if not survivors:
        return delete_thread(connection, context, thread_id) if held else Removal()
    needed = _needed(connection, context, held, survivors)
    keep = {entry.row for entry in survivors}
    gone = [entry for entry in held if entry.row not in keep and entry.row not in needed]
    hide = [entry for entry in held if entry.row in doomed and entry.row in needed]
    candidates = _referenced(connection, context, thread_id, [*gone, *hide])
    writes = _delete_writes(connection, context, thread_id, gone, ())
    names = sorted({name for entry in survivors for name in entry.deltas})
    writes += _delete_writes(connection, context, thread_id, hide, names)
    _delete_rows(connection, context, gone)
    _hide(connection, context, hide, names)
    visible = sum(1 for entry in gone if not entry.hidden) + len(hide)
    removal = Removal(0, visible, len(hide), writes)
    return removal + collect(connection, context, candidates)


def _needed(
    connection: Connection, context: Context, held: Sequence[Held], survivors: Sequence[Held]
) -> set[int]:
    """Rows that a survivor's DeltaChannels are to be read from."""
    names = sorted({name for entry in survivors for name in entry.deltas})
    if not names:
        return set()
    stored = _stored(connection, context, [entry.row for entry in held], names)
    by_place = {entry.place: entry for entry in held}
    needed: set[int] = set()
    for survivor in survivors:
        missing = set(survivor.deltas)
        entry = _parent(by_place, survivor)
        while missing and entry is not None:
            needed.add(entry.row)
            missing -= stored.get(entry.row, set())
            entry = _parent(by_place, entry)
    return needed


def _parent(by_place: dict[tuple[bytes, str], Held], entry: Held) -> Held | None:
    if entry.parent_id is None or entry.parent_id >= entry.checkpoint_id:
        # A parent is older than its child; a damaged row must not send the walk in a circle.
        return None
    return by_place.get((entry.namespace_key, entry.parent_id))


def _stored(
    connection: Connection, context: Context, rows: Sequence[int], names: Sequence[str]
) -> dict[int, set[str]]:
    """Which of the named channels each checkpoint holds a value of."""
    table = context.tables.channels
    stored: dict[int, set[str]] = {}
    for part in chunks(rows):
        found = connection.execute(
            select(table.c.checkpoint, table.c.channel)
            .where(table.c.checkpoint.in_(part), table.c.channel.in_(names)))
        for row, channel in found:
            stored.setdefault(row, set()).add(text(channel))
    return stored


def _referenced(
    connection: Connection, context: Context, thread_id: str, entries: Sequence[Held]
) -> list[bytes]:
    """Hashes of the blobs that these checkpoints and their writes refer to."""
    tables = context.tables
    found: set[bytes] = set()
    for part in chunks(entries):
        found.update(_blobs(connection, [
            select(tables.channels.c.blob).where(
                tables.channels.c.checkpoint.in_([entry.row for entry in part])),
            select(tables.writes.c.blob).where(_writes_of(context, thread_id, part)),
        ]))
    return sorted(found)


def _writes_of(context: Context, thread_id: str, entries: Sequence[Held]) -> Any:
    table = context.tables.writes
    by_namespace: dict[bytes, list[str]] = {}
    for entry in entries:
        by_namespace.setdefault(entry.namespace_key, []).append(entry.checkpoint_id)
    places = [
        and_(table.c.namespace_key == namespace, table.c.checkpoint_id.in_(checkpoint_ids))
        for namespace, checkpoint_ids in by_namespace.items()
    ]
    return and_(table.c.tenant == context.tenant, table.c.thread_id == thread_id, or_(*places))


def _delete_writes(
    connection: Connection, context: Context, thread_id: str, entries: Sequence[Held],
    but: Sequence[str],
) -> int:
    table = context.tables.writes
    count = 0
    for part in chunks(entries):
        where = _writes_of(context, thread_id, part)
        if but:
            where = and_(where, table.c.channel.not_in(list(but)))
        count += connection.execute(delete(table).where(where)).rowcount
    return count


def _delete_rows(connection: Connection, context: Context, entries: Sequence[Held]) -> None:
    tables = context.tables
    for part in chunks([entry.row for entry in entries]):
        for table in (tables.memory_states, tables.channels):
            connection.execute(delete(table).where(table.c.checkpoint.in_(part)))
        connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.id.in_(part)))


def _hide(
    connection: Connection, context: Context, entries: Sequence[Held], names: Sequence[str]
) -> None:
    """Keep the rows for their DeltaChannels only."""
    tables = context.tables
    for part in chunks([entry.row for entry in entries]):
        channels, memories = tables.channels, tables.memory_states
        connection.execute(delete(memories).where(memories.c.checkpoint.in_(part)))
        connection.execute(delete(channels).where(
            channels.c.checkpoint.in_(part), channels.c.channel.not_in(list(names))))
        connection.execute(
            update(tables.checkpoints).where(tables.checkpoints.c.id.in_(part))
            .values(hidden=1, channel_count=select(func.count()).where(
                channels.c.checkpoint == tables.checkpoints.c.id).scalar_subquery()))


def newest_of(held: Sequence[Held], count: int) -> set[int]:
    """Rows of the newest visible checkpoints of each namespace; `held` is newest first."""
    seen: dict[bytes, int] = {}
    rows: set[int] = set()
    for entry in held:
        if entry.hidden:
            continue
        seen[entry.namespace_key] = seen.get(entry.namespace_key, 0) + 1
        if seen[entry.namespace_key] <= count:
            rows.add(entry.row)
    return rows


__all__ = ["Held", "Removal", "collect", "delete_thread", "load_thread", "newest_of", "remove"]
