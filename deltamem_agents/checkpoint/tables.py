"""The tables, as SQLAlchemy Core knows them: the one source of every statement.

Keys are compared byte by byte on every database (`COLLATE "C"` on PostgreSQL, VARBINARY on
MariaDB and MySQL, whose collations would fold case and pad blanks). A value of a channel or a
write is either inline (`kind`, `data`) or in `blobs` (`blob`, the hash of its content).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeDecorator, TypeEngine

from deltamem_agents.checkpoint import identifiers as ids

SCHEMA_VERSION = 1
HASH_BYTES = 20
_MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_row_format": "DYNAMIC",
}


class _Key(TypeDecorator[str]):
    """Text that is compared by its bytes."""

    impl = Text
    cache_ok = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        kinds: dict[str, TypeEngine[Any]] = {
            "postgresql": postgresql.TEXT(collation="C"),
            "mysql": mysql.VARBINARY(self.size),
            "mariadb": mysql.VARBINARY(self.size),
        }
        return dialect.type_descriptor(kinds.get(dialect.name, Text()))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        binary = dialect.name in ("mysql", "mariadb")
        return value.encode() if value is not None and binary else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


def key(size: int) -> TypeEngine[str]:
    """Text that is compared by its bytes, of at most `size` bytes."""
    return _Key(size)


def digest(size: int) -> TypeEngine[bytes]:
    """A hash of at most `size` bytes."""
    return LargeBinary().with_variant(mysql.VARBINARY(size), "mysql", "mariadb")


def content() -> TypeEngine[bytes]:
    """Bytes of any length."""
    return LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def long_text() -> TypeEngine[str]:
    """Text of any length that is never a key."""
    return Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def row_id() -> TypeEngine[int]:
    """A number that the database hands out (SQLite does so for INTEGER only)."""
    return BigInteger().with_variant(Integer(), "sqlite")


@dataclass(frozen=True)
class Tables:
    """All tables of one installation: a schema (PostgreSQL, MySQL) and a prefix of names."""

    schema: str | None = None
    prefix: str = ""
    metadata: MetaData = field(init=False, compare=False)
    migrations: Table = field(init=False, compare=False)
    checkpoints: Table = field(init=False, compare=False)
    blobs: Table = field(init=False, compare=False)
    channels: Table = field(init=False, compare=False)
    writes: Table = field(init=False, compare=False)
    memory_states: Table = field(init=False, compare=False)
    tenants: Table = field(init=False, compare=False)
    fences: Table = field(init=False, compare=False)

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        keep("metadata", MetaData(schema=self.schema))
        keep("migrations", self._migrations())
        keep("tenants", self._tenants())
        keep("fences", self._fences())
        keep("checkpoints", self._checkpoints())
        keep("blobs", self._blobs())
        keep("channels", self._channels())
        keep("writes", self._writes())
        keep("memory_states", self._memory_states())

    def _table(self, name: str, *parts: SchemaItem, **more: Any) -> Table:
        return Table(self.prefix + name, self.metadata, *parts, **_MYSQL, **more)

    def _migrations(self) -> Table:
        return self._table(
            "schema_migrations",
            Column("version", Integer, primary_key=True, autoincrement=False),
            Column("name", String(100), nullable=False),
            Column("applied", BigInteger, nullable=False),
        )

    def _tenants(self) -> Table:
        """One row per tenant: its hash key, itself encrypted; of a plain one, that it is plain."""
        return self._table(
            "tenants",
            Column("tenant", key(ids.TENANT_BYTES), primary_key=True),
            Column("kind", String(64), nullable=False),
            Column("wrapped_key", content(), nullable=False),
        )

    def _fences(self) -> Table:
        return self._table(
            "fences",
            Column("tenant", key(ids.TENANT_BYTES), primary_key=True),
            Column("thread_id", key(ids.THREAD_BYTES), primary_key=True),
            Column("token", BigInteger, nullable=False),
        )

    def _checkpoints(self) -> Table:
        """`terms`: 8 bytes a metadata entry; `deltas`: channels to be read from ancestors."""
        return self._table(
            "checkpoints",
            Column("id", row_id(), primary_key=True, autoincrement=True),
            Column("tenant", key(ids.TENANT_BYTES), nullable=False),
            Column("thread_id", key(ids.THREAD_BYTES), nullable=False),
            Column("namespace_key", digest(ids.HASH_BYTES), nullable=False),
            Column("checkpoint_id", key(ids.CHECKPOINT_BYTES), nullable=False),
            Column("parent_id", key(ids.CHECKPOINT_BYTES)),
            Column("namespace", long_text(), nullable=False),
            Column("created", BigInteger, nullable=False),  # milliseconds since 1970
            Column("hidden", SmallInteger, nullable=False),  # kept for its descendants only
            Column("channel_count", Integer, nullable=False),
            Column("deltas", long_text()),
            Column("terms", content(), nullable=False),
            Column("metadata", long_text(), nullable=False),
            Column("kind", String(64), nullable=False),
            Column("body", content(), nullable=False),
            UniqueConstraint(
                "tenant",
                "thread_id",
                "namespace_key",
                "checkpoint_id",
                name=self.prefix + "checkpoints_address",
            ),
        )

    def _blobs(self) -> Table:
        return self._table(
            "blobs",
            Column("hash", digest(HASH_BYTES), primary_key=True),
            Column("tenant", key(ids.TENANT_BYTES), nullable=False),
            Column("kind", String(64), nullable=False),
            Column("data", content(), nullable=False),
        )

    def _blob_reference(self) -> Column[bytes]:
        # The foreign key is what stops a collector from taking a blob that a put running at the
        # same moment refers to; SQLite has one writer at a time and needs no such guard.
        return Column("blob", digest(HASH_BYTES), ForeignKey(self.blobs.c.hash))

    def _channels(self) -> Table:
        """`version`: 8 bytes of the hash of the channel's version."""
        blob = self._blob_reference()
        return self._table(
            "channels",
            Column("checkpoint", row_id(), primary_key=True, autoincrement=False),
            Column("channel", key(ids.CHANNEL_BYTES), primary_key=True),
            Column("version", digest(8), nullable=False),
            Column("kind", String(64)),
            Column("data", content()),
            blob,
            Index(
                self.prefix + "channels_blob",
                blob,
                sqlite_where=blob.is_not(None),
                postgresql_where=blob.is_not(None),
            ),
            sqlite_with_rowid=False,
        )

    def _writes(self) -> Table:
        """No reference to `checkpoints`: writes may be stored before their checkpoint."""
        blob = self._blob_reference()
        return self._table(
            "writes",
            Column("tenant", key(ids.TENANT_BYTES), primary_key=True),
            Column("thread_id", key(ids.THREAD_BYTES), primary_key=True),
            Column("namespace_key", digest(ids.HASH_BYTES), primary_key=True),
            Column("checkpoint_id", key(ids.CHECKPOINT_BYTES), primary_key=True),
            Column("task_id", key(ids.TASK_BYTES), primary_key=True),
            Column("idx", Integer, primary_key=True, autoincrement=False),
            Column("channel", key(ids.CHANNEL_BYTES), nullable=False),
            Column("task_path", long_text(), nullable=False),
            Column("kind", String(64)),
            Column("data", content()),
            blob,
            Index(
                self.prefix + "writes_blob",
                blob,
                sqlite_where=blob.is_not(None),
                postgresql_where=blob.is_not(None),
            ),
            sqlite_with_rowid=False,
        )

    def _memory_states(self) -> Table:
        return self._table(
            "memory_states",
            Column("checkpoint", row_id(), primary_key=True, autoincrement=False),
            Column("channel", key(ids.CHANNEL_BYTES), primary_key=True),
            Column("tenant", key(ids.TENANT_BYTES), nullable=False),
            Column("thread_id", key(ids.THREAD_BYTES), nullable=False),
            Column("checkpoint_id", key(ids.CHECKPOINT_BYTES), nullable=False),
            Column("adapter", String(64), nullable=False),  # fingerprint
            Column("layers", Integer, nullable=False),
            Column("heads", Integer, nullable=False),
            Column("rank", Integer, nullable=False),
            Column("tokens_written", BigInteger, nullable=False),
            Column("norm", Double, nullable=False),
            Column("bytes", BigInteger, nullable=False),
            Column("blob", digest(HASH_BYTES), nullable=False),
            Index(self.prefix + "memory_states_thread", "tenant", "thread_id"),
        )
