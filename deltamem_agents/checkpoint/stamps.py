"""Whether a thread is still what it was: a hash over all of its rows, taken twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, select

from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.errors import ConflictError

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.saver import SQLAlchemySaver


def thread_stamp(saver: SQLAlchemySaver, thread_id: str) -> bytes:
    """What `rewrite_checkpoints(read=...)` compares; taken before the thread is read."""
    return saver._manage(
        lambda context: lambda session: _stamp(session, context, thread_id), write=False
    )


async def athread_stamp(saver: SQLAlchemySaver, thread_id: str) -> bytes:
    """Async `thread_stamp`."""
    return await saver._amanage(
        lambda context: lambda session: _stamp(session, context, thread_id), write=False
    )


def refuse_written(session: Session, context: Context, thread_id: str, read: bytes) -> None:
    """Refuse where a thread has changed, and on SQLite and PostgreSQL keep others from changing it.

    A writer of SQLite is alone anyway. PostgreSQL has no lock for rows that are not there yet, so
    writers of all threads wait until this transaction ends.

    Raises:
        ConflictError: something was written to the thread, or taken from it, since `read`.
    """
    if session.core.dialect.name == "postgresql":
        form = session.core.dialect.identifier_preparer.format_table
        names = ", ".join(form(one) for one in (context.tables.checkpoints, context.tables.writes))
        session.core.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")
    if _stamp(session, context, thread_id) != read:
        raise ConflictError(
            "a thread stays as it was read until it is rewritten",
            got=f"thread {thread_id!r}, to which others wrote meanwhile",
            remedy="Try again when no run of the thread is going on.",
        )


def _stamp(session: Session, context: Context, thread_id: str) -> bytes:
    """A hash over the thread's checkpoints, channels and writes; contents by their own hashes."""
    tables = context.tables
    heads, channels, writes = tables.checkpoints, tables.channels, tables.writes
    own = [
        and_(table.c.tenant == context.tenant, table.c.thread_id == thread_id)
        for table in (heads, writes)
    ]
    queries = (
        select(
            heads.c.id, heads.c.parent_id, heads.c.hidden, heads.c.metadata, heads.c.body
        ).where(own[0]),
        select(
            channels.c.checkpoint, channels.c.channel, channels.c.version,
            channels.c.data, channels.c.blob,
        ).where(channels.c.checkpoint.in_(select(heads.c.id).where(own[0]))),
        select(
            writes.c.namespace_key, writes.c.checkpoint_id, writes.c.task_id, writes.c.idx,
            writes.c.channel, writes.c.data, writes.c.blob,
        ).where(own[1]),
    )  # fmt: skip
    whole = hashlib.blake2b(digest_size=20)
    for query in queries:
        for digest in sorted(map(_digest, session.core.execute(query))):
            whole.update(digest)
        whole.update(b"|")
    return whole.digest()


def _digest(row: Sequence[Any]) -> bytes:
    plain = [bytes(value) if isinstance(value, bytearray | memoryview) else value for value in row]
    return hashlib.blake2b(repr(plain).encode("utf-8", "surrogatepass"), digest_size=20).digest()
