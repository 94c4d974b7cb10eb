"""Rows to checkpoints and back, without any input or output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    Checkpoint,
    CheckpointTuple,
    PendingWrite,
)

from deltamem_agents.checkpoint import identifiers as ids
from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.checkpoint.failures import DAMAGED
from deltamem_agents.checkpoint.identifiers import identifier, make_config
from deltamem_agents.checkpoint.serde import Coder, Item
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import CorruptStorageError, SerializationError


class Row(NamedTuple):
    """One row of `Statements.sections`."""

    section: int
    row: int
    one: Any
    two: Any
    three: Any
    four: Any
    five: Any
    number: int
    kind: str | None
    data: bytes | None
    hash: bytes | None


class Loaded(NamedTuple):
    """A checkpoint as read: the tuple, and the number of its row."""

    row: int
    value: CheckpointTuple


def text(value: Any) -> str:
    """A key column as text (MariaDB gives bytes).

    Raises:
        CorruptStorageError: it is not UTF-8.
    """
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except (TypeError, UnicodeDecodeError, ValueError) as error:
        raise CorruptStorageError("a key is UTF-8 text", got=value, remedy=DAMAGED) from error


@lru_cache(maxsize=4096, typed=True)
def version_key(version: object) -> bytes:
    """8 bytes that stand for a channel's version."""
    return hashlib.blake2b(f"{type(version).__name__}:{version}".encode(), digest_size=8).digest()


def assemble(rows: Iterable[Sequence[Any]], coder: Coder) -> list[Loaded]:
    """Checkpoint tuples, newest first, from the rows of one statement.

    Raises:
        CorruptStorageError: a row is damaged or missing.
        EncryptionError: a row is plain where it must be encrypted, or the reverse.
    """
    heads: list[Row] = []
    channels: dict[int, list[Sequence[Any]]] = {}
    writes: dict[int, list[Sequence[Any]]] = {}
    for row in rows:
        if row[0] == 0:
            heads.append(Row._make(row))
        else:
            (channels if row[0] == 1 else writes).setdefault(row[1], []).append(row)
    if len(heads) > 1:
        heads.sort(key=lambda head: (text(head.one), head.row), reverse=True)
    return [
        Loaded(head.row, _tuple(head, channels.get(head.row, ()), writes.get(head.row, ()), coder))
        for head in heads
    ]


def _tuple(
    head: Row, channels: Sequence[Sequence[Any]], writes: Sequence[Sequence[Any]], coder: Coder
) -> CheckpointTuple:
    checkpoint_id, thread_id, namespace = text(head.one), text(head.two), text(head.three)
    if len(channels) != head.number:
        raise CorruptStorageError(
            "a checkpoint has all of its channels",
            got=f"{len(channels)} of {head.number} in checkpoint {checkpoint_id}",
            remedy=DAMAGED,
        )
    body = coder.decode(head.kind, head.data)
    if not isinstance(body, dict):
        raise CorruptStorageError("the body of a checkpoint is a mapping", got=body, remedy=DAMAGED)
    values = {text(row[2]): coder.decode(row[8], row[9], row[10]) for row in channels}
    parent = None if head.four is None else make_config(thread_id, namespace, text(head.four))
    return CheckpointTuple(
        make_config(thread_id, namespace, checkpoint_id),
        cast("Checkpoint", {"id": checkpoint_id, **body, "channel_values": values}),
        load_metadata(text(head.five), coder),
        parent,
        pending(writes, coder),
    )


def pending(rows: Iterable[Sequence[Any]], coder: Coder) -> list[PendingWrite]:
    """Writes in the order of (task_path, task_id, idx)."""
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: (text(row[4]), text(row[2]), row[7]))
    return [(text(row[2]), text(row[3]), coder.decode(row[8], row[9], row[10])) for row in ordered]


def load_metadata(stored: str, coder: Coder) -> Any:
    """Metadata from its column: JSON, or JSON around a ciphertext."""
    metadata = meta.loads(stored)
    if coder.cipher is None:
        if set(metadata) == {"encrypted", "kind"}:
            coder.open(cast("Any", metadata)["kind"], b"")
        return metadata
    sealed = cast("Any", metadata)
    try:
        data = bytes.fromhex(sealed["encrypted"])
        kind = str(sealed["kind"])
    except (KeyError, TypeError, ValueError):
        kind, data = "json", b""
    return meta.loads(coder.open(kind, data)[1].decode("utf-8", "replace"))


def dump_metadata(metadata: Mapping[str, Any], coder: Coder) -> str:
    """The inverse of `load_metadata`."""
    plain = meta.dumps(metadata)
    if coder.cipher is None:
        return plain
    kind, data = coder.seal("json", plain.encode())
    return meta.dumps({"encrypted": data.hex(), "kind": kind})


def dump_body(checkpoint: Checkpoint, coder: Coder) -> Item:
    """All of a checkpoint but its id and its values."""
    body = {
        name: value for name, value in checkpoint.items() if name not in ("id", "channel_values")
    }
    return coder.encode_inline(body)


def channel_row(checkpoint: int, channel: str, version: bytes, item: Item) -> dict[str, Any]:
    """A row of `channels`."""
    return {"checkpoint": checkpoint, "channel": channel, "version": version, **reference(item)}


def reference(item: Item) -> dict[str, Any]:
    """The columns by which a channel or a write holds its value: inline, or a blob's hash."""
    if item.blob is None:
        return {"kind": item.kind, "data": item.data, "blob": None}
    return {"kind": None, "data": None, "blob": item.blob}


def blob_rows(items: Iterable[Item], tenant: str) -> list[dict[str, Any]]:
    """Rows of `blobs`, each content once, in one order (so that two writers cannot deadlock)."""
    rows = {
        item.blob: {"hash": item.blob, "tenant": tenant, "kind": item.kind, "data": item.data}
        for item in items
        if item.blob is not None
    }
    return [rows[address] for address in sorted(rows)]


def write_rows(
    address: ids.Address,
    tenant: str,
    task_id: str,
    task_path: str,
    writes: Sequence[tuple[str, Any]],
    items: Sequence[Item],
) -> list[dict[str, Any]]:
    """Rows of `writes`; special channels have places of their own below zero."""
    task_id = identifier(task_id, "task_id", ids.TASK_BYTES)
    identifier(task_path, "task_path", ids.NAMESPACE_BYTES)
    return [
        {
            "tenant": tenant,
            "thread_id": address.thread_id,
            "namespace_key": address.namespace_key,
            "checkpoint_id": address.checkpoint_id,
            "task_id": task_id,
            "idx": WRITES_IDX_MAP.get(channel, place),
            "channel": identifier(channel, "channel", ids.CHANNEL_BYTES),
            "task_path": task_path,
            **reference(item),
        }
        for place, ((channel, _), item) in enumerate(zip(writes, items, strict=True))
    ]


def memory_row(channel: str, state: MemoryState, blob: bytes | None) -> dict[str, Any]:
    """The columns of `memory_states` that the value itself gives."""
    layers, heads, rank, _ = state.state.shape
    if blob is None:
        raise SerializationError(
            "a memory is stored as a blob",
            got=repr(state),
            remedy="Give the saver LangGraph's JsonPlusSerializer, or no serde.",
        )
    return {
        "channel": channel,
        "adapter": state.fingerprint,
        "layers": layers,
        "heads": heads,
        "rank": rank,
        "tokens_written": state.tokens_written,
        "norm": float(state.norm),
        "bytes": state.nbytes,
        "blob": blob,
    }
