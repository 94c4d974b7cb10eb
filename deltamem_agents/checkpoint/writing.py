"""Storing: a checkpoint with its channels, and the writes of a task."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
)

from deltamem_agents.checkpoint import identifiers as ids
from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.checkpoint import rows
from deltamem_agents.checkpoint.at_once import arrays
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.identifiers import Address, identifier
from deltamem_agents.checkpoint.serde import Item
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConflictError, IdentifierError


@dataclass
class Put:
    """A checkpoint, encoded and ready to be stored.

    `changed` channels are stored anew; `unchanged` ones are taken over from the parent, and
    encoded only if the parent does not hold them at the version that the checkpoint says.
    """

    context: Context
    address: Address
    parent_id: str | None
    head: dict[str, Any]
    values: dict[str, Any]
    versions: dict[str, bytes]
    changed: dict[str, Item]
    unchanged: list[str]
    fence: int | None

    @property
    def config(self) -> RunnableConfig:
        """What `put` returns."""
        return self.address.config

    def encode(self, names: Sequence[str]) -> dict[str, Item]:
        """Encode some of the values."""
        return {name: self.context.coder.encode(self.values[name]) for name in names}


def prepare(
    context: Context,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> Put:
    """All of a put that needs no database."""
    parent = ids.address_of(config)
    own = identifier(checkpoint["id"], "checkpoint id", ids.CHECKPOINT_BYTES)
    address = parent._replace(checkpoint_id=own)
    values = checkpoint["channel_values"]
    for name in values:
        identifier(name, "channel", ids.CHANNEL_BYTES)
    held = checkpoint["channel_versions"]
    collected = meta.collect(config, metadata)
    body = rows.dump_body(checkpoint, context.coder)
    deltas = sorted(
        name
        for name in collected.get("counters_since_delta_snapshot") or ()
        if name not in values and name in held  # never written: nothing to be read
    )
    put = Put(
        context=context,
        address=address,
        parent_id=parent.checkpoint_id,
        values=values,
        head={
            **context.at(address),
            "parent_id": parent.checkpoint_id,
            "namespace": address.namespace,
            "created": int(time.time() * 1000),
            "hidden": 0,
            "channel_count": len(values),
            "deltas": json.dumps(deltas) if deltas else None,
            "terms": meta.terms(collected, context.coder.salt),
            "metadata": rows.dump_metadata(collected, context.coder),
            "kind": body.kind,
            "body": body.data,
        },
        versions={name: rows.version_key(held.get(name)) for name in values},
        changed={},
        unchanged=[],
        fence=fence_of(config),
    )
    if parent.checkpoint_id is not None:
        put.unchanged = [name for name in values if name in held and name not in new_versions]
    kept = set(put.unchanged)
    put.changed = put.encode([name for name in values if name not in kept])
    return put


def fence_of(config: RunnableConfig) -> int | None:
    """The fencing token that the config carries."""
    token = config["configurable"].get(meta.FENCE_KEY)
    if token is not None and (not isinstance(token, int) or isinstance(token, bool)):
        raise IdentifierError(
            "a fencing token is a number",
            got=token,
            remedy="Take the config that `saver.fence(config)` returns.",
        )
    return token


def check_fence(session: Session, context: Context, address: Address, token: int | None) -> None:
    """Refuse a writer whose token is not the thread's newest.

    Raises:
        ConflictError: another writer took a token after this one did.
    """
    if token is None:
        return
    found = session.rows(session.statements.fence, context.at(address))
    newest = found[0][0] if found else 0
    if newest != token:
        raise ConflictError(
            f"only the holder of the newest fencing token writes to thread {address.thread_id!r}",
            got=f"token {token}, the newest is {newest}",
            remedy="Read the thread again and take a token with `saver.fence(config)`.",
        )


def put_at_once(session: Session, put: Put) -> RunnableConfig | None:
    """Store one checkpoint by a single statement; None (and nothing stored) if that cannot be."""
    at_once, tables = session.statements.at_once, put.context.tables
    if at_once is None or put.fence is not None:
        return None
    blobs = rows.blob_rows(put.changed.values(), put.context.tenant)
    memories = _memory_rows(put, {}, put.changed)
    kept = put.unchanged and any(type(put.values[name]) is MemoryState for name in put.unchanged)
    shape = (put.unchanged, put.changed, blobs, memories, kept)
    statement = at_once.put(*map(bool, shape))
    channels = [
        {"channel": name, "version": put.versions[name], **rows.reference(item)}
        for name, item in put.changed.items()
    ]
    parameters = {
        **put.head,
        **arrays(tables.blobs, blobs),
        **arrays(tables.channels, channels),
        **arrays(tables.memory_states, memories),
        "kept_channel": put.unchanged,
        "kept_version": [put.versions[name] for name in put.unchanged],
        "expected": len(put.unchanged),
        "sealed": put.context.key.sealed,
    }
    return put.config if session.rows(statement, parameters) else None


def put_checkpoint(session: Session, put: Put) -> RunnableConfig:
    """Store one checkpoint in the running transaction."""
    statements, context = session.statements, put.context
    check_fence(session, context, put.address, put.fence)
    number, new = session.put_checkpoint(put.head)
    if not new:
        session.run(statements.drop_channels, {"checkpoint": number})
        session.run(statements.drop_memories, {"checkpoint": number})
    changed = dict(put.changed)
    if put.unchanged:
        changed.update(_take_over(session, put, number))
    session.many(statements.put_blob, rows.blob_rows(changed.values(), context.tenant))
    session.many(
        statements.put_channel,
        [
            rows.channel_row(number, name, put.versions[name], item)
            for name, item in changed.items()
        ],
    )
    _put_memories(session, put, number, changed)
    return put.config


def _take_over(session: Session, put: Put, number: int) -> dict[str, Item]:
    """Copy unchanged channels from the parent; what it does not hold is encoded and returned."""
    names = put.unchanged
    parameters: dict[str, Any] = {
        **put.context.at(put.address),
        "checkpoint": number,
        "parent_id": put.parent_id,
    }
    for place, name in enumerate(names):
        parameters[f"channel{place}"] = name
        parameters[f"version{place}"] = put.versions[name]
    statement = session.statements.copy_channels(len(names))
    if session.run(statement, parameters) == len(names):
        return {}
    found = session.rows(session.statements.versions, {"checkpoint": number})
    there = {rows.text(row[0]) for row in found}
    return put.encode([name for name in names if name not in there])


def _memory_rows(
    put: Put, places: dict[str, Any], changed: dict[str, Item]
) -> list[dict[str, Any]]:
    own = {
        "tenant": put.context.tenant,
        "thread_id": put.address.thread_id,
        "checkpoint_id": put.address.checkpoint_id,
    }
    return [
        {**places, **own, **rows.memory_row(name, put.values[name], item.blob)}
        for name, item in changed.items()
        if type(put.values[name]) is MemoryState
    ]


def _put_memories(session: Session, put: Put, number: int, changed: dict[str, Item]) -> None:
    places = {"checkpoint": number}
    session.many(session.statements.put_memory, _memory_rows(put, places, changed))
    if any(type(put.values[name]) is MemoryState for name in put.unchanged if name not in changed):
        session.run(
            session.statements.copy_memories,
            {**put.context.at(put.address), **places, "parent_id": put.parent_id},
        )


@dataclass
class Writes:
    """The writes of one task, encoded."""

    context: Context
    address: Address
    rows: list[dict[str, Any]]
    blobs: list[dict[str, Any]]
    again: bool
    fence: int | None


def prepare_writes(
    context: Context,
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> Writes:
    """All of `put_writes` that needs no database."""
    address = ids.address_of(config)
    if address.checkpoint_id is None:
        raise IdentifierError(
            "writes belong to a checkpoint: the config has a checkpoint_id",
            got=address,
            remedy="Pass the config that `put` returned.",
        )
    again = all(channel in WRITES_IDX_MAP for channel, _ in writes)
    if again:
        writes = list(dict(writes).items())  # the later one replaces the earlier one
    items = [context.coder.encode(value) for _, value in writes]
    return Writes(
        context,
        address,
        rows.write_rows(address, context.tenant, task_id, task_path, writes, items),
        rows.blob_rows(items, context.tenant),
        again,
        fence_of(config),
    )


def writes_at_once(session: Session, writes: Writes) -> bool | None:
    """Store the writes by a single statement; None (and nothing stored) if that cannot be."""
    at_once, tables = session.statements.at_once, writes.context.tables
    if at_once is None or writes.fence is not None:
        return None
    statement = at_once.writes(writes.again, bool(writes.blobs))
    parameters = {
        "tenant": writes.context.tenant,
        "sealed": writes.context.key.sealed,
        **arrays(tables.writes, writes.rows),
        **arrays(tables.blobs, writes.blobs),
    }
    return True if session.rows(statement, parameters) else None


def put_writes(session: Session, writes: Writes) -> bool:
    """Store the writes: special channels replace what was there, others never do."""
    check_fence(session, writes.context, writes.address, writes.fence)
    statements = session.statements
    session.many(statements.put_blob, writes.blobs)
    session.many(statements.write_again if writes.again else statements.write_once, writes.rows)
    return True
