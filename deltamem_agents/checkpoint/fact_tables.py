"""Tables of the fact store, beside the checkpoints in the same database.

They live here because the saver owns the schema and deletes threads; what a fact means is the
router's affair. Scope is compared by the hash of (tenant, thread), never by pattern and never by a
database's collation: MariaDB takes "Alice" and "alice " for one string by default, a hash does not.

The full-text index is derived from the column `words` by the database itself (triggers on SQLite,
an expression index on PostgreSQL, FULLTEXT on MariaDB), so that a row that is gone is gone from
the index too, whoever deleted it. With encryption on, `words` is NULL and nothing is indexed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Row,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import SchemaItem

from deltamem_agents.checkpoint.tables import content, row_id

_words = Text().with_variant(mysql.LONGTEXT(charset="ascii"), "mysql", "mariadb")
_MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_row_format": "DYNAMIC",
}


@dataclass(frozen=True)
class FactTables:
    """The fact store's tables: in a schema (PostgreSQL, MySQL), with a prefix to their names."""

    schema: str | None = None
    prefix: str = ""
    metadata: MetaData = field(init=False, compare=False)
    facts: Table = field(init=False, compare=False)
    branches: Table = field(init=False, compare=False)
    closings: Table = field(init=False, compare=False)
    tombstones: Table = field(init=False, compare=False)
    vectors: Table = field(init=False, compare=False)
    outdated: Table = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", MetaData(schema=self.schema))
        for name in ("facts", "branches", "closings", "tombstones", "vectors", "outdated"):
            object.__setattr__(self, name, getattr(self, f"_{name}")())

    def named(self, name: str) -> str:
        """A name with the schema and the prefix, for SQL that is written out."""
        return f"{self.schema}.{self.prefix}{name}" if self.schema else f"{self.prefix}{name}"

    def _table(self, name: str, *parts: SchemaItem, **more: Any) -> Table:
        return Table(self.prefix + name, self.metadata, *parts, **_MYSQL, **more)

    def _facts(self) -> Table:
        return self._table(
            "facts",
            Column("number", row_id(), primary_key=True, autoincrement=True),
            Column("fact_id", String(32), nullable=False, unique=True),
            Column("tenant", String(64), nullable=False),  # hash of the tenant
            Column("scope", String(64), nullable=False),  # hash of (tenant, thread)
            Column("slot", String(64), nullable=False),  # hash of what it is about, "" = many
            Column("digest", String(64), nullable=False),  # of the message it came from
            Column("ordinal", Integer, nullable=False),  # which fact of that message
            Column("message", String(64), nullable=False),  # hash of the message's id
            Column("branch", String(64), nullable=False),  # hash of the head that recorded it
            Column("authority", SmallInteger, nullable=False),  # 3 user, 2 tool, 1 assistant
            Column("recorded_at", Double, nullable=False),  # seconds since 1970, UTC
            Column("body", content(), nullable=False),  # JSON, or its ciphertext
            Column("words", _words, nullable=True),  # what the full-text index sees
            UniqueConstraint(
                "scope", "digest", "ordinal", "branch", name=self.prefix + "facts_once"
            ),
            Index(self.prefix + "facts_by_slot", "scope", "slot"),
            Index(self.prefix + "facts_by_message", "scope", "message"),
            Index(self.prefix + "facts_by_tenant", "tenant"),
            sqlite_autoincrement=True,
        )

    def _branches(self) -> Table:
        """The heads under which facts were recorded, each with the one before it."""
        return self._table(
            "fact_branches",
            Column("scope", String(64), primary_key=True),
            Column("head", String(64), primary_key=True),
            Column("parent", String(64), nullable=False),  # "" for the first
        )

    def _closings(self) -> Table:
        return self._table(
            "fact_closings",
            Column("number", row_id(), primary_key=True, autoincrement=True),
            Column("scope", String(64), nullable=False),
            Column("old", BigInteger, nullable=False),  # facts.number that is closed
            Column("new", BigInteger, nullable=False),  # that closes it; 0 = closed outright
            Column("branch", String(64), nullable=False),  # the head from which the closing holds
            Column("closed_at", Double, nullable=False),
            UniqueConstraint("old", "new", "branch", name=self.prefix + "fact_closings_once"),
            Index(self.prefix + "fact_closings_by_scope", "scope"),
        )

    def _tombstones(self) -> Table:
        return self._table(
            "fact_tombstones",
            Column("fact_id", String(32), primary_key=True),
            Column("scope", String(64), nullable=False),
            Column("message", String(64), nullable=False),  # hash of the message's id, no content
            Column("forgotten_at", Double, nullable=False),
            Column("tenant", String(64)),  # hash of the tenant; None where nobody can tell
            Index(self.prefix + "fact_tombstones_by_scope", "scope"),
        )

    def _vectors(self) -> Table:
        return self._table(
            "fact_vectors",
            Column("fact", BigInteger, primary_key=True, autoincrement=False),
            Column("model", String(64), primary_key=True),  # hash of the embedder's name
            Column("scope", String(64), nullable=False),
            Column("vector", content(), nullable=False),  # float32 little-endian, unit length
            Index(self.prefix + "fact_vectors_by_scope", "scope", "model"),
        )

    def _outdated(self) -> Table:
        """Tenants whose facts an older version hashed; the next `FactStore` does it anew."""
        return self._table("fact_outdated", Column("tenant", String(64), primary_key=True))

    def full_text(self, dialect: str) -> tuple[str, ...]:
        """The statements that make the full-text index on a database that has it not."""
        name, facts, words = self.prefix, self.named("facts"), self.named("fact_words")
        if dialect == "postgresql":
            return (
                f"CREATE INDEX IF NOT EXISTS {name}facts_words ON {facts}"
                " USING gin (to_tsvector('simple', words))",
            )
        if dialect != "sqlite":
            return (f"CREATE FULLTEXT INDEX {name}facts_words ON {facts} (words)",)
        return (
            f"CREATE VIRTUAL TABLE IF NOT EXISTS {words} USING fts5("
            f"words, content='{name}facts', content_rowid='number', tokenize='ascii')",
            f"CREATE TRIGGER IF NOT EXISTS {name}facts_indexed AFTER INSERT ON {facts} "
            "WHEN new.words IS NOT NULL BEGIN "
            f"INSERT INTO {words}(rowid, words) VALUES (new.number, new.words); END",
            f"CREATE TRIGGER IF NOT EXISTS {name}facts_unindexed AFTER DELETE ON {facts} "
            f"WHEN old.words IS NOT NULL BEGIN INSERT INTO {words}({name}fact_words, rowid, words)"
            " VALUES ('delete', old.number, old.words); END",
        )


@cache
def fact_tables(schema: str | None = None, prefix: str = "") -> FactTables:
    """The tables of one installation, the same object each time."""
    return FactTables(schema, prefix)


def tenant_hash(tenant: str) -> str:
    """The tenant as the tables hold it: sha256, hex."""
    return _hash(tenant)


def scope_hash(tenant: str, thread: str) -> str:
    """(tenant, thread) as the tables hold it: sha256, hex."""
    return _hash(tenant, thread)


def scoped(scope_key: str, words: Iterable[str]) -> list[str]:
    """Words as the full-text index holds them: each with its scope in front.

    So a word's list in the index holds one scope's rows only, and nobody else's make it longer.
    """
    return [f"{_mark(scope_key)}{word}" for word in words]


def unscoped(scope_key: str, words: str) -> list[str]:
    """The words of a row as they were before `scoped`."""
    return [word.removeprefix(_mark(scope_key)) for word in words.split()]


def _mark(scope_key: str) -> str:
    return "zs" + scope_key[:16]


def branch_hash(head: str) -> str:
    """A head of a branch as the tables hold it; "" (outside of any branch) stays ""."""
    return _hash("branch", head) if head else ""


def _hash(*parts: str) -> str:
    # JSON keeps ("a", "bc") and ("ab", "c") apart, and takes lone surrogates.
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def delete_scope_facts(
    connection: Connection, tenant: str, thread: str, tables: FactTables | None = None
) -> int:
    """Deletes all facts of a thread, for a saver that deletes the thread; returns how many."""
    t = tables or fact_tables()
    scope = scope_hash(tenant, thread)
    count = connection.execute(delete(t.facts).where(t.facts.c.scope == scope)).rowcount
    for table in (t.branches, t.closings, t.tombstones, t.vectors):
        connection.execute(delete(table).where(table.c.scope == scope))
    return count


def delete_facts(
    connection: Connection,
    scope: str,
    numbers: Iterable[int],
    tables: FactTables | None = None,
) -> int:
    """Deletes facts by number with their vectors; a chain of closings over them is joined again.

    What closed a deleted fact now closes what the deleted fact had closed, so that the rest reads
    as if the deleted fact had never been told.

    Args:
        connection: inside the operation's transaction.
        scope: `scope_hash` of tenant and thread; facts of another scope are left alone.
        numbers: `facts.number` of the facts to delete.
        tables: of the installation; the default names if None.

    Returns:
        How many facts were deleted.
    """
    t = tables or fact_tables()
    closings, count = t.closings, 0
    for number in numbers:
        links = select(closings).where(closings.c.scope == scope)
        before = connection.execute(links.where(closings.c.new == number)).all()
        after = connection.execute(links.where(closings.c.old == number)).all()
        touched = (closings.c.old == number) | (closings.c.new == number)
        connection.execute(delete(closings).where(closings.c.scope == scope, touched))
        for link in before:
            # What was closed outright was closed for its own sake: that is not handed on.
            _join(connection, t, link.old, [later for later in after if later.new])
        # The fact first: that waits for who gives it a vector, which then goes, too.
        own = (t.facts.c.scope == scope, t.facts.c.number == number)
        count += connection.execute(delete(t.facts).where(*own)).rowcount
        own = (t.vectors.c.scope == scope, t.vectors.c.fact == number)
        connection.execute(delete(t.vectors).where(*own))
    return count


def _join(connection: Connection, t: FactTables, old: int, after: Sequence[Row[Any]]) -> None:
    columns = t.closings.c
    for link in after:
        same = (columns.old == old, columns.new == link.new, columns.branch == link.branch)
        if connection.execute(select(columns.number).where(*same)).first() is None:
            connection.execute(
                t.closings.insert().values(
                    scope=link.scope,
                    old=old,
                    new=link.new,
                    branch=link.branch,
                    closed_at=link.closed_at,
                )
            )
