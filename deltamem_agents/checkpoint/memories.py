"""The memory matrix beside the graph's state: one row a checkpoint that SQL can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, and_, select

from deltamem_agents.checkpoint.failures import DAMAGED
from deltamem_agents.checkpoint.identifiers import Address, namespace_hash
from deltamem_agents.checkpoint.rows import text
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import CorruptStorageError, StateError

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.transactions import Operation


@dataclass(frozen=True)
class MemoryRecord:
    """One row of `memory_states`, with the checkpoint it belongs to.

    Attributes:
        checkpoint_id: LangGraph's id of the checkpoint.
        parent_id: the checkpoint before it.
        namespace: of the (sub)graph.
        channel: of the state.
        adapter: fingerprint of what made the memory.
        layers, heads, rank: its shape is [layers, heads, rank, rank].
        tokens_written: since it was empty.
        norm: Frobenius norm over all layers.
        bytes: of its arrays.
        created: milliseconds since 1970 (UTC).
    """

    checkpoint_id: str
    parent_id: str | None
    namespace: str
    channel: str
    adapter: str
    layers: int
    heads: int
    rank: int
    tokens_written: int
    norm: float
    bytes: int
    created: int


def course(
    thread_id: str, namespace: str | None
) -> Callable[[Context], Operation[list[MemoryRecord]]]:
    """All memories of a thread, oldest first."""

    def make(context: Context) -> Operation[list[MemoryRecord]]:
        return lambda session: _course(session, context, thread_id, namespace)

    return make


def _course(
    session: Session, context: Context, thread_id: str, namespace: str | None
) -> list[MemoryRecord]:
    memory, checkpoint = context.tables.memory_states, context.tables.checkpoints
    query: Select[Any] = (
        select(
            checkpoint.c.checkpoint_id,
            checkpoint.c.parent_id,
            checkpoint.c.namespace,
            memory.c.channel,
            memory.c.adapter,
            memory.c.layers,
            memory.c.heads,
            memory.c.rank,
            memory.c.tokens_written,
            memory.c.norm,
            memory.c.bytes,
            checkpoint.c.created,
        )
        .join(checkpoint, checkpoint.c.id == memory.c.checkpoint)
        .where(
            memory.c.tenant == context.tenant,
            memory.c.thread_id == thread_id,
            checkpoint.c.tenant == context.tenant,
            checkpoint.c.thread_id == thread_id,
        )
        .order_by(checkpoint.c.checkpoint_id, memory.c.channel)
    )
    if namespace is not None:
        query = query.where(checkpoint.c.namespace_key == namespace_hash(namespace))
    return [
        MemoryRecord(
            text(row[0]),
            None if row[1] is None else text(row[1]),
            text(row[2]),
            text(row[3]),
            *row[4:],
        )
        for row in session.core.execute(query)
    ]


def at(address: Address, channel: str | None) -> Callable[[Context], Operation[MemoryState | None]]:
    """The memory of one checkpoint."""

    def make(context: Context) -> Operation[MemoryState | None]:
        return lambda session: _at(session, context, address, channel)

    return make


def _at(
    session: Session, context: Context, address: Address, channel: str | None
) -> MemoryState | None:
    tables = context.tables
    head, memory, blob = tables.checkpoints, tables.memory_states, tables.blobs
    chosen = select(head.c.id).where(
        head.c.tenant == context.tenant,
        head.c.thread_id == address.thread_id,
        head.c.namespace_key == address.namespace_key,
        head.c.hidden == 0,
    )
    if address.checkpoint_id is None:
        chosen = chosen.order_by(head.c.checkpoint_id.desc()).limit(1)
    else:
        chosen = chosen.where(head.c.checkpoint_id == address.checkpoint_id)
    number = session.core.scalar(chosen)
    query = (
        select(memory.c.channel, blob.c.kind, blob.c.data, blob.c.hash)
        .join(blob, and_(blob.c.hash == memory.c.blob, blob.c.tenant == context.tenant))
        .where(memory.c.checkpoint == number)
        .order_by(memory.c.channel)
    )
    if channel is not None:
        query = query.where(memory.c.channel == channel)
    found = session.core.execute(query).all()
    if not found:
        return None
    if len(found) > 1:
        raise StateError(
            "the config names one memory",
            got=[text(row[0]) for row in found],
            remedy="Pass `channel=`.",
        )
    value = context.coder.decode(found[0][1], found[0][2], found[0][3])
    if not isinstance(value, MemoryState):
        raise CorruptStorageError(
            "memory_states refers to a memory", got=type(value).__name__, remedy=DAMAGED
        )
    return value
