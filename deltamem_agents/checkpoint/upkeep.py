"""Upkeep: counts, collecting what nothing refers to, giving space back, fencing tokens."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, and_, func, select, update

from deltamem_agents.checkpoint import engines, removal
from deltamem_agents.checkpoint.removal import Removal
from deltamem_agents.checkpoint.rows import text
from deltamem_agents.errors import StorageBusyError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.database import Database
    from deltamem_agents.checkpoint.session import Session

_TRIES = 10


@dataclass(frozen=True)
class Stats:
    """What a tenant holds.

    Attributes:
        threads: with at least one checkpoint.
        checkpoints: that a listing shows.
        hidden: kept for a DeltaChannel's history only.
        channels: values of channels, over all checkpoints.
        writes: pending writes.
        blobs: distinct contents of more than 512 bytes.
        blob_bytes: their bytes as stored.
        memories: rows of `memory_states`.
        database_bytes: of the whole database (all tenants), where it can tell; else 0.
    """

    threads: int
    checkpoints: int
    hidden: int
    channels: int
    writes: int
    blobs: int
    blob_bytes: int
    memories: int
    database_bytes: int


@dataclass(frozen=True)
class ThreadRecord:
    """A thread in numbers.

    Attributes:
        thread_id: its name.
        checkpoints: that a listing shows, over all namespaces.
        memories: checkpoints' memories (rows of `memory_states`).
        newest: the greatest checkpoint id.
        created: when its first checkpoint was stored, milliseconds since 1970 (UTC).
        changed: when its last one was.
    """

    thread_id: str
    checkpoints: int
    memories: int
    newest: str
    created: int
    changed: int


def threads(session: Session, context: Context) -> list[ThreadRecord]:
    """Count by thread, the one that changed last first."""
    heads, memories = context.tables.checkpoints, context.tables.memory_states
    held = session.core.execute(
        select(memories.c.thread_id, func.count())
        .where(memories.c.tenant == context.tenant)
        .group_by(memories.c.thread_id)
    )
    counts = {text(name): count for name, count in held}
    found = session.core.execute(
        select(
            heads.c.thread_id,
            func.count(),
            func.max(heads.c.checkpoint_id),
            func.min(heads.c.created),
            func.max(heads.c.created),
        )
        .where(heads.c.tenant == context.tenant, heads.c.hidden == 0)
        .group_by(heads.c.thread_id)
    )
    records = [
        ThreadRecord(text(name), count, counts.get(text(name), 0), text(newest), first, last)
        for name, count, newest, first, last in found
    ]
    return sorted(records, key=lambda one: (one.changed, one.newest), reverse=True)


def stats(session: Session, context: Context) -> Stats:
    """Count."""
    tables, tenant = context.tables, context.tenant
    heads = tables.checkpoints

    def one(query: Select[Any]) -> int:
        return int(session.core.scalar(query) or 0)

    own = heads.c.tenant == tenant
    return Stats(
        threads=one(select(func.count(heads.c.thread_id.distinct())).where(own)),
        checkpoints=one(select(func.count()).where(own, heads.c.hidden == 0)),
        hidden=one(select(func.count()).where(own, heads.c.hidden != 0)),
        channels=one(
            select(func.count())
            .select_from(tables.channels.join(heads, heads.c.id == tables.channels.c.checkpoint))
            .where(own)
        ),
        writes=one(select(func.count()).where(tables.writes.c.tenant == tenant)),
        blobs=one(select(func.count()).where(tables.blobs.c.tenant == tenant)),
        blob_bytes=one(
            select(func.sum(func.length(tables.blobs.c.data))).where(
                tables.blobs.c.tenant == tenant
            )
        ),
        memories=one(select(func.count()).where(tables.memory_states.c.tenant == tenant)),
        database_bytes=_database_bytes(session),
    )


def _database_bytes(session: Session) -> int:
    queries = {
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
        "postgresql": "SELECT pg_database_size(current_database())",
        "mysql": "SELECT SUM(data_length + index_length) FROM information_schema.tables "
        "WHERE table_schema = DATABASE()",
    }
    found = session.core.exec_driver_sql(queries[session.statements.family]).scalar()
    return int(found or 0)


def sweep(session: Session, context: Context) -> Removal:
    """Collect every blob of the tenant that nothing refers to."""
    blobs = context.tables.blobs
    hashes = session.core.execute(
        select(blobs.c.hash).where(blobs.c.tenant == context.tenant)
    ).scalars()
    return removal.collect(session.core, context, sorted(bytes(entry) for entry in hashes))


def vacuum(database: Database) -> bool:
    """Give free space back to the system; whether SQLite's log could be emptied too."""
    engine, tables = database.engine, database.tables
    family = database.statements(engine).family
    if family == "sqlite":
        return _vacuum_sqlite(database)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        preparer = engine.dialect.identifier_preparer
        names = [preparer.format_table(table) for table in tables.metadata.sorted_tables]
        if family == "postgresql":
            connection.exec_driver_sql(f"VACUUM ANALYZE {', '.join(names)}").close()
        else:
            _optimize(connection, names)
    return True


def _optimize(connection: Connection, names: Sequence[str]) -> None:
    """Rewrite each table when nobody holds it.

    While it waits for a transaction, the server makes the table's writers wait, and sees no
    deadlock between such a writer and that transaction: so it waits a second at a time.
    """
    connection.detach()  # the short waits stay this connection's
    connection.exec_driver_sql("SET SESSION lock_wait_timeout=1, innodb_lock_wait_timeout=1")
    left = list(names)
    for _ in range(_TRIES):
        left = [name for name in left if not _optimized(connection, name)]
        if not left:
            return
        time.sleep(random.uniform(0.05, 0.5))  # longer than most transactions
    raise StorageBusyError(
        "writers leave each table alone for a moment while it is rewritten",
        got=f"{', '.join(left)} in use",
        remedy="Call again when fewer of them write; all else is done.",
    )


def _optimized(connection: Connection, name: str) -> bool:
    answer = connection.exec_driver_sql(f"OPTIMIZE TABLE {name}").all()
    return all(row.Msg_type.lower() != "error" for row in answer)


def _vacuum_sqlite(database: Database) -> bool:
    raw = database.engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("VACUUM")
        cursor.close()
    finally:
        raw.close()
    return engines.truncate_log(database.engine)


def take_fence(session: Session, context: Context, thread_id: str) -> int:
    """The next fencing token of a thread; all earlier holders are from now on stale."""
    table = context.tables.fences
    where = and_(table.c.tenant == context.tenant, table.c.thread_id == thread_id)
    changed = session.core.execute(update(table).where(where).values(token=table.c.token + 1))
    if changed.rowcount:
        token: int = session.core.execute(select(table.c.token).where(where)).scalar_one()
        return token
    session.core.execute(table.insert().values(tenant=context.tenant, thread_id=thread_id, token=1))
    return 1
