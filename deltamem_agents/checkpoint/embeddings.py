"""The column of `fact_vectors` that pgvector searches, where the database has that extension.

It repeats what the row's bytes say, for plain tenants only. Whoever writes a row without it (a copy
of a thread, a process that knows no pgvector) leaves it NULL; the next search fills it. It is no
migration, since the extension may come and go: what is there is looked up when it is needed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, TableClause, column, null, select, table, text, update
from sqlalchemy.types import UserDefinedType

from deltamem_agents.checkpoint.fact_tables import FactTables, tenant_hash
from deltamem_agents.checkpoint.migrations import lock

PATIENCE = "200ms"
# A table of this installation, by its schema, or as an unqualified name finds it.
_TABLE = """
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace AND c.relname = :name
    AND CASE WHEN CAST(:schema AS text) IS NULL
        THEN pg_catalog.pg_table_is_visible(c.oid) ELSE s.nspname = :schema END
LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = c.oid AND a.attname = 'embedding' AND NOT a.attisdropped
"""
_HELD = f"""
SELECT v.nspname {_TABLE}
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typname = 'vector'
JOIN pg_catalog.pg_namespace v ON v.oid = t.typnamespace
"""
_USED = f"{_HELD} WHERE pg_catalog.has_schema_privilege(v.oid, 'USAGE')"
_WANTED = f"""
SELECT v.nspname {_TABLE}
JOIN pg_catalog.pg_extension e ON e.extname = 'vector'
JOIN pg_catalog.pg_namespace v ON v.oid = e.extnamespace
WHERE a.attname IS NULL AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
    AND pg_catalog.has_schema_privilege(v.oid, 'USAGE')
"""


class VectorType(UserDefinedType[str]):
    """pgvector's `vector`, of any length, from the schema that holds the extension."""

    cache_ok = True

    def __init__(self, named: str) -> None:
        self.named = named

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in SQL."""
        return self.named


def vector_type(connection: Connection, schema: str) -> VectorType:
    """The type as this database's SQL names it; `schema` holds the extension."""
    quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
    return VectorType(f"{quoted}.vector")


def embedding_schema(connection: Connection, tables: FactTables) -> str | None:
    """The schema of the extension, if the column is there and this user may use it; else None."""
    return None if _elsewhere(connection) else _schema(connection, tables, _USED)


def add_embeddings(connection: Connection, tables: FactTables) -> None:
    """Adds the column where the database has pgvector, and the table is this user's to change.

    Args:
        connection: inside a transaction of its own: from the change on the table is locked.
        tables: of the installation.

    Raises:
        DBAPIError: somebody else uses the table all the while, by PostgreSQL's state 55P03.
    """
    if _elsewhere(connection) or _schema(connection, tables, _WANTED) is None:
        return
    # Whoever comes after a change that waits has to wait, too, though it only reads.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    with lock(connection):
        schema = _schema(connection, tables, _WANTED)  # another process may have been first
        if schema is not None:
            name = connection.dialect.identifier_preparer.format_table(tables.vectors)
            kind = vector_type(connection, schema).get_col_spec()
            # In the row itself (MAIN), since a search reads them all; the bytes then move out.
            connection.exec_driver_sql(
                f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS embedding {kind}, "
                "ALTER COLUMN embedding SET STORAGE MAIN"
            )


def with_embedding(tables: FactTables) -> TableClause:
    """`fact_vectors` with the column, which the declared table lacks as most databases do."""
    known = tables.vectors
    columns = [column(each.name, each.type) for each in known.c]
    return table(known.name, *columns, column("embedding"), schema=known.schema)


def clear_embeddings(connection: Connection, tables: FactTables, tenant: str) -> None:
    """Empties the column for a tenant whose contents become encrypted.

    Also for a user who may not use the extension, and so never searches the column.
    """
    if _elsewhere(connection) or _schema(connection, tables, _HELD) is None:
        return
    held, facts = with_embedding(tables), tables.facts
    own = select(facts.c.number).where(facts.c.tenant == tenant_hash(tenant))
    connection.execute(update(held).where(held.c.fact.in_(own)).values(embedding=null()))


def _elsewhere(connection: Connection) -> bool:
    return connection.dialect.name != "postgresql"


def _schema(connection: Connection, tables: FactTables, statement: str) -> str | None:
    named = {"name": tables.vectors.name, "schema": tables.vectors.schema}
    found: str | None = connection.scalar(text(statement), named)
    return found
