"""Storing what `importing.Source` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from deltamem_agents.checkpoint import identifiers as ids
from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.checkpoint import rows
from deltamem_agents.checkpoint.identifiers import Address, identifier, namespace_hash
from deltamem_agents.checkpoint.importing import (
    Foreign,
    ForeignWrite,
    Packed,
    Source,
    memory_of,
    pack,
)
from deltamem_agents.checkpoint.serde import Item

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.transactions import Operation
    from deltamem_agents.core.state import MemoryState


@dataclass(frozen=True)
class Imported:
    """How much was taken over."""

    threads: int = 0
    checkpoints: int = 0
    writes: int = 0

    def __add__(self, other: Imported) -> Imported:
        return Imported(
            self.threads + other.threads,
            self.checkpoints + other.checkpoints,
            self.writes + other.writes,
        )


def take_over(source: Source, thread_id: str) -> Callable[[Context], Operation[Imported]]:
    """One thread of the source, in one transaction."""
    checkpoints, writes = list(source.thread(thread_id)), list(source.thread_writes(thread_id))

    def operation(session: Session, context: Context) -> Imported:
        for foreign in checkpoints:
            _put(session, context, foreign)
        for write in writes:
            _put_write(session, context, write)
        return Imported(1, len(checkpoints), len(writes))

    return lambda context: lambda session: operation(session, context)


def _address(thread_id: str, namespace: str, checkpoint_id: str) -> Address:
    thread_id = identifier(thread_id, "thread_id", ids.THREAD_BYTES)
    identifier(namespace, "checkpoint_ns", ids.NAMESPACE_BYTES)
    identifier(checkpoint_id, "checkpoint_id", ids.CHECKPOINT_BYTES)
    return Address(thread_id, namespace, namespace_hash(namespace), checkpoint_id)


def _item(context: Context, packed: Packed, memory: MemoryState | None) -> Item:
    if memory is not None:
        return context.coder.encode(memory)
    return context.coder.wrap(packed.kind, packed.data)


def _put(session: Session, context: Context, foreign: Foreign) -> None:
    address = _address(foreign.thread_id, foreign.namespace, foreign.checkpoint_id)
    statements = session.statements
    packed_body = pack(foreign.body)
    kind, body = context.coder.seal(packed_body.kind, packed_body.data)
    memories = {name: memory_of(packed) for name, packed in foreign.values.items()}
    items = {
        name: _item(context, packed, memories[name]) for name, packed in foreign.values.items()
    }
    counters = foreign.metadata.get("counters_since_delta_snapshot") or {}
    deltas = sorted(name for name in counters if name not in items)
    number, _ = session.put_checkpoint(
        {
            **context.at(address),
            "parent_id": foreign.parent_id,
            "namespace": foreign.namespace,
            "created": _created(foreign.body),
            "hidden": 0,
            "channel_count": len(items),
            "deltas": json.dumps(deltas) if deltas else None,
            "terms": meta.terms(foreign.metadata, context.coder.salt),
            "metadata": rows.dump_metadata(foreign.metadata, context.coder),
            "kind": kind,
            "body": body,
        },
    )
    session.run(statements.drop_channels, {"checkpoint": number})
    session.many(statements.put_blob, rows.blob_rows(items.values(), context.tenant))
    versions: dict[str, Any] = foreign.body.get("channel_versions") or {}
    session.many(
        statements.put_channel,
        [
            rows.channel_row(
                number,
                identifier(name, "channel", ids.CHANNEL_BYTES),
                rows.version_key(versions.get(name)),
                item,
            )
            for name, item in items.items()
        ],
    )
    _put_memories(session, context.at(address), number, memories, items)


def _put_memories(
    session: Session,
    place: dict[str, Any],
    number: int,
    memories: Mapping[str, MemoryState | None],
    items: Mapping[str, Item],
) -> None:
    own = {name: place[name] for name in ("tenant", "thread_id", "checkpoint_id")}
    own["checkpoint"] = number
    session.run(session.statements.drop_memories, own)  # of an import before this one
    session.many(
        session.statements.put_memory,
        [
            {**own, **rows.memory_row(name, memory, items[name].blob)}
            for name, memory in memories.items()
            if memory is not None
        ],
    )


def _created(body: dict[str, Any]) -> int:
    """Milliseconds since 1970, from LangGraph's own time stamp."""
    try:
        return int(datetime.fromisoformat(str(body.get("ts"))).timestamp() * 1000)
    except ValueError:
        return 0


def _put_write(session: Session, context: Context, write: ForeignWrite) -> None:
    address = _address(write.thread_id, write.namespace, write.checkpoint_id)
    item = _item(context, write.value, memory_of(write.value))
    row = rows.write_rows(
        address, context.tenant, write.task_id, write.task_path, [(write.channel, None)], [item]
    )[0] | {"idx": write.idx}
    session.many(session.statements.put_blob, rows.blob_rows([item], context.tenant))
    session.run(session.statements.write_again, row)
