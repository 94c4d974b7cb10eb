"""The tenant's row of `tenants`, and what keeps a tenant from getting its first key by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from deltamem_agents.checkpoint.fact_tables import fact_tables, tenant_hash

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.tables import Tables


def holds_contents(connection: Connection, tables: Tables, tenant: str) -> bool:
    """Whether anything is stored that a change of key would seal again.

    Also what no checkpoint leads to: writes that came before theirs, blobs that wait to be
    collected, facts. (Vectors belong to a fact.) One plain row that is left, and no key opens all.
    """
    facts = fact_tables(tables.schema, tables.prefix)
    owned = [(table, tenant) for table in (tables.checkpoints, tables.writes)]
    owned += [(table, tenant_hash(tenant)) for table in (facts.facts, facts.tombstones)]
    owned.append((tables.blobs, tenant))  # last: there it reads the whole table
    return any(
        connection.execute(select(table.c.tenant).where(table.c.tenant == name).limit(1)).first()
        for table, name in owned
    )
