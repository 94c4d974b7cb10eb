"""Rewriting checkpoints in place: what a thread forgets leaves its past too.

All of a rewrite is one transaction: the new channels, the writes that go, and the blobs that
nothing refers to any more. Ids, parents and times of the checkpoints stay, so that forks, replays
and facts recorded at a checkpoint keep their places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, or_, select, union

from deltamem_agents.checkpoint import writing
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.database import Operation
from deltamem_agents.checkpoint.identifiers import Address, address_of
from deltamem_agents.checkpoint.removal import Removal, chunks, collect, load_thread, remove
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.stamps import refuse_written

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.saver import SQLAlchemySaver


Beside = Callable[[Connection], None]


def nothing(connection: Connection) -> None:
    """Nothing else belongs to the transaction."""


@dataclass(frozen=True)
class Rewrite:
    """A stored checkpoint with new content.

    Args:
        config: names thread, namespace and the checkpoint's parent (if it has one).
        checkpoint: the new content; its id says which checkpoint is rewritten.
        metadata: of the checkpoint, as it was.
        drop_writes: whether the writes stored at this checkpoint go.
        kept: those of them, by task and channel, that stay even so.
    """

    config: RunnableConfig
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    drop_writes: bool = True
    kept: frozenset[tuple[str, str]] = frozenset()

    @property
    def address(self) -> Address:
        """Where the checkpoint is stored."""
        return address_of(self.config)._replace(checkpoint_id=self.checkpoint["id"])


def rewrite_checkpoints(
    saver: SQLAlchemySaver,
    rewrites: Sequence[Rewrite],
    beside: Beside = nothing,
    read: bytes | None = None,
) -> Removal:
    """Put new content in the place of stored checkpoints, all or none.

    On SQLite the old content leaves the file's bytes and its write-ahead log.

    Args:
        saver: where.
        rewrites: what.
        beside: what else belongs to the same transaction; called again where that is retried.
        read: the `thread_stamp` of the one thread that is rewritten, from before it was read;
            None rewrites whatever is there now.

    Returns:
        What went: writes, blobs, bytes; and whether SQLite's log is rid of it (`purged`).

    Raises:
        ConflictError: the thread has changed since `read`; nothing is rewritten.
    """
    removal = saver._manage(_operation(rewrites, beside, read))
    return replace(removal, purged=saver._database.purge())


async def arewrite_checkpoints(
    saver: SQLAlchemySaver,
    rewrites: Sequence[Rewrite],
    beside: Beside = nothing,
    read: bytes | None = None,
) -> Removal:
    """Async `rewrite_checkpoints`."""
    removal = await saver._amanage(_operation(rewrites, beside, read))
    return replace(removal, purged=await saver._database.apurge())


def _operation(
    rewrites: Sequence[Rewrite], beside: Beside, read: bytes | None
) -> Callable[[Context], Operation[Removal]]:
    def operation(session: Session, context: Context) -> Removal:
        if read is not None and rewrites:
            refuse_written(session, context, rewrites[0].address.thread_id, read)
        beside(session.core)
        return _rewrite(session, context, rewrites)

    return lambda context: lambda session: operation(session, context)


def _rewrite(session: Session, context: Context, rewrites: Sequence[Rewrite]) -> Removal:
    held: set[bytes] = set()
    writes = 0
    for rewrite in rewrites:
        row = _row(session, context, rewrite.address)
        if row is None:
            continue  # it was pruned meanwhile; what is not there needs no rewriting
        number, created = row
        held |= _blobs(session, context, rewrite.address, number)
        put = writing.prepare(
            context,
            rewrite.config,
            rewrite.checkpoint,
            rewrite.metadata,
            rewrite.checkpoint["channel_versions"],
        )
        put.changed, put.unchanged = put.encode(list(put.values)), []
        put.head["created"] = created
        writing.put_checkpoint(session, put)
        if rewrite.drop_writes:
            where = _dropped(context, rewrite)
            writes += session.core.execute(delete(context.tables.writes).where(where)).rowcount
    removal = Removal(writes=writes) + collect(session.core, context, sorted(held))
    for thread_id in sorted({rewrite.address.thread_id for rewrite in rewrites}):
        removal += _uncover(session, context, thread_id)
    return removal


def _uncover(session: Session, context: Context, thread_id: str) -> Removal:
    """Delete hidden checkpoints that no DeltaChannel is read from any more."""
    held = load_thread(session.core, context, thread_id)
    if not any(entry.hidden for entry in held):
        return Removal()
    return remove(session.core, context, thread_id, held, ())


def _dropped(context: Context, rewrite: Rewrite) -> ColumnElement[bool]:
    """The writes of a checkpoint that go."""
    table = context.tables.writes
    where = [_at(table, context, rewrite.address)]
    for channel in sorted({name for _, name in rewrite.kept}):
        tasks = sorted(task for task, name in rewrite.kept if name == channel)
        for part in chunks(tasks):
            where.append(or_(table.c.channel != channel, table.c.task_id.not_in(part)))
    return and_(*where)


def _at(table: Table, context: Context, address: Address) -> ColumnElement[bool]:
    columns = table.c
    return and_(
        columns.tenant == context.tenant,
        columns.thread_id == address.thread_id,
        columns.namespace_key == address.namespace_key,
        columns.checkpoint_id == address.checkpoint_id,
    )


def _row(session: Session, context: Context, address: Address) -> tuple[int, int] | None:
    table = context.tables.checkpoints
    query = select(table.c.id, table.c.created).where(_at(table, context, address))
    found = session.core.execute(query).first()
    return None if found is None else (found[0], found[1])


def _blobs(session: Session, context: Context, address: Address, number: int) -> set[bytes]:
    """What the checkpoint and its writes refer to now."""
    channels, writes = context.tables.channels, context.tables.writes
    query = union(
        select(channels.c.blob).where(channels.c.checkpoint == number),
        select(writes.c.blob).where(_at(writes, context, address)),
    )
    return {bytes(row[0]) for row in session.core.execute(query) if row[0] is not None}
