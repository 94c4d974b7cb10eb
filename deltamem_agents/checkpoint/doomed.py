"""The rows that a removal takes: which blobs they refer to, and how they go or hide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, or_, select, union, update
from sqlalchemy.dialects import mysql, postgresql

from deltamem_agents.checkpoint.context import Context

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
        purged: whether nothing of them is left in SQLite's file and its log; False while another
            connection still reads an older state (then call the saver's `purge` later). On the
            servers it says that no row is left; their own logs are theirs.
    """

    threads: int = 0
    checkpoints: int = 0
    hidden: int = 0
    writes: int = 0
    facts: int = 0
    blobs: int = 0
    bytes: int = 0
    purged: bool = True

    def __add__(self, other: Removal) -> Removal:
        return Removal(
            threads=self.threads + other.threads,
            checkpoints=self.checkpoints + other.checkpoints,
            hidden=self.hidden + other.hidden,
            writes=self.writes + other.writes,
            facts=self.facts + other.facts,
            blobs=self.blobs + other.blobs,
            bytes=self.bytes + other.bytes,
            purged=self.purged and other.purged,
        )


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
        yield entries[start : start + CHUNK]


def blobs_of(connection: Connection, queries: Sequence[Any]) -> list[bytes]:
    """Distinct hashes that the rows refer to."""
    rows = connection.execute(union(*queries)).all()
    return sorted(bytes(row[0]) for row in rows if row[0] is not None)


def collect(connection: Connection, context: Context, candidates: Sequence[bytes]) -> Removal:
    """Delete those of the blobs that no channel and no write refers to."""
    if not candidates:
        return Removal()
    tables = context.tables
    _one_at_a_time(connection, context)
    hashes = tables.blobs.c.hash
    free = [
        ~select(table.c.blob).where(table.c.blob == hashes).correlate(tables.blobs).exists()
        for table in (tables.channels, tables.writes)
    ]
    count = size = 0
    for part in chunks(candidates):
        where = and_(hashes.in_(part), tables.blobs.c.tenant == context.tenant, *free)
        size += (
            connection.scalar(
                select(func.coalesce(func.sum(func.length(tables.blobs.c.data)), 0)).where(where)
            )
            or 0
        )
        count += connection.execute(delete(tables.blobs).where(where)).rowcount
    return Removal(blobs=count, bytes=int(size))


def _one_at_a_time(connection: Connection, context: Context) -> None:
    """Let one collector of a tenant work at a time.

    Two that delete the last two references to a blob would each still see the other's, and the
    blob would stay. The row that is locked until the transaction ends is that of no thread.
    """
    table, name = context.tables.fences, connection.dialect.name
    values = {"tenant": context.tenant, "thread_id": "", "token": 0}
    if name == "postgresql":
        into = postgresql.insert(table).values(values)
        keys = [table.c.tenant, table.c.thread_id]
        connection.execute(
            into.on_conflict_do_update(index_elements=keys, set_={"token": table.c.token})
        )
    elif name != "sqlite":  # which has one writer at a time anyway
        connection.execute(
            mysql.insert(table).values(values).on_duplicate_key_update(token=table.c.token)
        )


def referenced(
    connection: Connection, context: Context, thread_id: str, entries: Sequence[Held]
) -> list[bytes]:
    """Hashes of the blobs that these checkpoints and their writes refer to."""
    tables = context.tables
    found: set[bytes] = set()
    for part in chunks(entries):
        found.update(
            blobs_of(
                connection,
                [
                    select(tables.channels.c.blob).where(
                        tables.channels.c.checkpoint.in_([entry.row for entry in part])
                    ),
                    select(tables.writes.c.blob).where(writes_of(context, thread_id, part)),
                ],
            )
        )
    return sorted(found)


def writes_of(context: Context, thread_id: str, entries: Sequence[Held]) -> Any:
    """The condition that selects the writes of these checkpoints."""
    table = context.tables.writes
    by_namespace: dict[bytes, list[str]] = {}
    for entry in entries:
        by_namespace.setdefault(entry.namespace_key, []).append(entry.checkpoint_id)
    places = [
        and_(table.c.namespace_key == namespace, table.c.checkpoint_id.in_(checkpoint_ids))
        for namespace, checkpoint_ids in by_namespace.items()
    ]
    return and_(table.c.tenant == context.tenant, table.c.thread_id == thread_id, or_(*places))


def delete_writes(
    connection: Connection,
    context: Context,
    thread_id: str,
    entries: Sequence[Held],
    but: Sequence[str],
) -> int:
    """Delete their writes, but those to the named channels; how many."""
    table = context.tables.writes
    count = 0
    for part in chunks(entries):
        where = writes_of(context, thread_id, part)
        if but:
            where = and_(where, table.c.channel.not_in(list(but)))
        count += connection.execute(delete(table).where(where)).rowcount
    return count


def delete_rows(connection: Connection, context: Context, entries: Sequence[Held]) -> None:
    """Delete their rows with channels and memories."""
    tables = context.tables
    for part in chunks([entry.row for entry in entries]):
        for table in (tables.memory_states, tables.channels):
            connection.execute(delete(table).where(table.c.checkpoint.in_(part)))
        connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.id.in_(part)))


def hide(
    connection: Connection, context: Context, entries: Sequence[Held], names: Sequence[str]
) -> None:
    """Keep the rows for their DeltaChannels only."""
    tables = context.tables
    for part in chunks([entry.row for entry in entries]):
        channels, memories = tables.channels, tables.memory_states
        connection.execute(delete(memories).where(memories.c.checkpoint.in_(part)))
        connection.execute(
            delete(channels).where(
                channels.c.checkpoint.in_(part), channels.c.channel.not_in(list(names))
            )
        )
        connection.execute(
            update(tables.checkpoints)
            .where(tables.checkpoints.c.id.in_(part))
            .values(
                hidden=1,
                channel_count=select(func.count())
                .where(channels.c.checkpoint == tables.checkpoints.c.id)
                .scalar_subquery(),
            )
        )
