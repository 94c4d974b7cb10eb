"""Taking over the databases of LangGraph's official SQLite and PostgreSQL savers.

Values are copied as they were packed: types that are not on the allow-list here lose nothing, and
nothing of the source is run. Only memories are built, since they are stored in a form of their own.
The source is only read; an import that is repeated changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.types import TASKS
from sqlalchemy import Connection, MetaData, Table, inspect, select

from deltamem_agents.checkpoint.rows import text
from deltamem_agents.checkpoint.serde import strict_serializer
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import CorruptStorageError, FileFormatError, SerializationError

_PACK = ormsgpack.OPT_NON_STR_KEYS
_KINDS = {"null", "bytes", "bytearray", "msgpack", "json"}
_EMPTY = "empty"  # PostgresSaver's mark of a channel without a value
# How LangGraph's serializer begins the packed fields of a memory: after the extension's header (6
# bytes at most) and the array's (1).
_MEMORY = b"".join(map(ormsgpack.packb, (MemoryState.__module__, MemoryState.__name__)))
_HEADER = 7
_SENDS_APART = 4  # checkpoints before this version have their pending sends at the parent


@dataclass(frozen=True)
class Packed:
    """A value as the source had packed it."""

    kind: str
    data: bytes


@dataclass
class Foreign:
    """One checkpoint of the source."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    parent_id: str | None
    body: dict[str, Any]
    metadata: dict[str, Any]
    values: dict[str, Packed] = field(default_factory=dict)


@dataclass(frozen=True)
class ForeignWrite:
    """One pending write of the source."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    task_id: str
    task_path: str
    idx: int
    channel: str
    value: Packed


class Source:
    """An official saver's database, opened for reading.

    Raises:
        FileFormatError: it is no database of the official savers.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        names = set(inspect(connection).get_table_names())
        self.postgres = {"checkpoints", "checkpoint_blobs", "checkpoint_writes"} <= names
        if not self.postgres and not {"checkpoints", "writes"} <= names:
            raise FileFormatError(
                "this is a database of LangGraph's SQLite or PostgreSQL saver",
                got=sorted(names),
                remedy="Give the database that a SqliteSaver or PostgresSaver wrote.",
            )
        metadata = MetaData()
        self.checkpoints = Table("checkpoints", metadata, autoload_with=connection)
        writes = "checkpoint_writes" if self.postgres else "writes"
        self.writes = Table(writes, metadata, autoload_with=connection)
        if "checkpoint" not in self.checkpoints.c:
            raise FileFormatError(
                "the checkpoints are those of an official saver",
                got=sorted(self.checkpoints.c.keys()),
                remedy="Open it with the official saver once, whose setup() brings it up to date.",
            )
        self.blobs = (
            Table("checkpoint_blobs", metadata, autoload_with=connection) if self.postgres else None
        )

    def threads(self) -> list[str]:
        """All thread ids."""
        table = self.checkpoints
        query = select(table.c.thread_id).distinct()
        return sorted(str(row[0]) for row in self.connection.execute(query))

    def thread(self, thread_id: str) -> Iterator[Foreign]:
        """The checkpoints of a thread, parents before children."""
        table = self.checkpoints
        query = select(table).where(table.c.thread_id == thread_id)
        found = self.connection.execute(query).mappings().all()
        for row in sorted(found, key=lambda row: str(row["checkpoint_id"])):
            yield self._from_postgres(row) if self.postgres else self._from_sqlite(row)

    def thread_writes(self, thread_id: str) -> Iterator[ForeignWrite]:
        """The pending writes of a thread."""
        table = self.writes
        value = "blob" if self.postgres else "value"
        for row in self.connection.execute(
            select(table).where(table.c.thread_id == thread_id)
        ).mappings():
            yield ForeignWrite(
                row["thread_id"],
                row["checkpoint_ns"],
                row["checkpoint_id"],
                row["task_id"],
                row.get("task_path") or "",
                row["idx"],
                row["channel"],
                _packed(row["type"] or "null", row[value] or b""),
            )

    def _from_sqlite(self, row: Any) -> Foreign:
        checkpoint = _unpack(_packed(row["type"], row["checkpoint"]))
        values = {name: pack(value) for name, value in checkpoint.pop("channel_values", {}).items()}
        stored = row["metadata"]
        metadata = json.loads(stored) if stored else {}
        return _foreign(row, checkpoint, metadata, values)

    def _from_postgres(self, row: Any) -> Foreign:
        checkpoint = dict(row["checkpoint"])
        values = {
            name: pack(value)
            for name, value in (checkpoint.pop("channel_values", None) or {}).items()
        }
        assert self.blobs is not None
        table = self.blobs
        versions = {
            name: str(version) for name, version in checkpoint.get("channel_versions", {}).items()
        }
        found = self.connection.execute(
            select(table.c.channel, table.c.version, table.c.type, table.c.blob).where(
                table.c.thread_id == row["thread_id"],
                table.c.checkpoint_ns == row["checkpoint_ns"],
                table.c.version.in_(sorted(set(versions.values()))),
            )
        )
        for channel, version, kind, blob in found:
            if versions.get(channel) == version and kind != _EMPTY:
                values[channel] = _packed(kind, blob or b"")
        if checkpoint.get("v", 1) < _SENDS_APART and row["parent_checkpoint_id"]:
            self._add_sends(row, checkpoint, values)
        return _foreign(row, checkpoint, dict(row["metadata"] or {}), values)

    def _add_sends(self, row: Any, checkpoint: dict[str, Any], values: dict[str, Packed]) -> None:
        """What an older LangGraph sent from the parent, in the channel that holds it now."""
        table = self.writes
        path = [table.c.task_path] if "task_path" in table.c else []
        sends = self.connection.execute(
            select(table.c.type, table.c.blob)
            .where(
                table.c.thread_id == row["thread_id"],
                table.c.checkpoint_ns == row["checkpoint_ns"],
                table.c.checkpoint_id == row["parent_checkpoint_id"],
                table.c.channel == TASKS,
            )
            .order_by(*path, table.c.task_id, table.c.idx)
        ).all()
        if sends:
            values[TASKS] = _joined([_packed(kind, blob) for kind, blob in sends])
            versions = dict(checkpoint.get("channel_versions") or {})
            newest = max(versions.values()) if versions else f"{1:032}.{0:016}"
            checkpoint["channel_versions"] = {**versions, TASKS: newest}


def _foreign(
    row: Any, checkpoint: dict[str, Any], metadata: dict[str, Any], values: dict[str, Packed]
) -> Foreign:
    body = {name: value for name, value in checkpoint.items() if name != "id"}
    return Foreign(
        str(row["thread_id"]),
        row["checkpoint_ns"] or "",
        row["checkpoint_id"],
        row["parent_checkpoint_id"] or None,
        body,
        metadata,
        values,
    )


def _packed(kind: str, data: Any) -> Packed:
    if kind not in _KINDS:
        raise SerializationError(
            "values of the source are packed as msgpack or JSON, in plain",
            got=kind,
            remedy="Encrypted or pickled databases are not imported; replay the graph instead.",
        )
    return Packed(kind, data.encode() if isinstance(data, str) else bytes(data))


def pack(value: Any) -> Packed:
    """A part of an unpacked value, packed again; extension types stay what they were."""
    if value is None:
        return Packed("null", b"")
    if isinstance(value, bytes):
        return Packed("bytes", value)
    return Packed("msgpack", ormsgpack.packb(value, default=_keep, option=_PACK))


def memory_of(packed: Packed) -> MemoryState | None:
    """The memory that a value is; None if it is anything else, or none that can be built.

    Raises:
        CorruptStorageError: it is damaged.
    """
    if packed.kind != "msgpack" or _MEMORY not in packed.data[: _HEADER + len(_MEMORY)]:
        return None
    if not isinstance(_opened(packed), _Extension):
        return None
    value = strict_serializer().loads_typed((packed.kind, packed.data))
    return value if type(value) is MemoryState else None


def _joined(parts: list[Packed]) -> Packed:
    """Values as one list."""
    if all(part.kind == "json" for part in parts):
        return Packed("json", b"[" + b",".join(part.data for part in parts) + b"]")
    return pack([_opened(part) for part in parts])


class _Extension:
    """An extension type of msgpack, unopened."""

    def __init__(self, code: int, data: bytes) -> None:
        self.code, self.data = code, data


def _keep(value: Any) -> Any:
    if isinstance(value, _Extension):
        return ormsgpack.Ext(value.code, value.data)
    raise TypeError(f"cannot pack {type(value).__name__}")


def _opened(packed: Packed) -> Any:
    try:
        if packed.kind == "json":
            return json.loads(packed.data)
        return ormsgpack.unpackb(packed.data, ext_hook=_Extension, option=_PACK)
    except ValueError as error:
        raise CorruptStorageError(
            "a checkpoint of the source can be read",
            got=str(error),
            remedy="The source is damaged; import from a backup of it.",
        ) from error


def _unpack(packed: Packed) -> dict[str, Any]:
    value = _opened(packed)
    if not isinstance(value, dict):
        raise CorruptStorageError(
            "a checkpoint of the source is a mapping",
            got=value,
            remedy="The source is damaged; import from a backup of it.",
        )
    return {text(name): entry for name, entry in value.items()}
