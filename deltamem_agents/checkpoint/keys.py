"""The tenant's row of `tenants`: its sealed hash key, or that it is plain.

Whoever opens a tenant first makes the row, so that there always is one for a write to look at, and
for a change of key to wait with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select, text, update

from deltamem_agents.checkpoint.fact_tables import fact_tables, tenant_hash

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.tables import Tables


Sealed = tuple[str, bytes]  # kind and bytes, see `Key.row`


def held_key(connection: Connection, tables: Tables, tenant: str) -> Sealed | None:
    """What the tenant's row holds; None if it was never opened."""
    table = tables.tenants
    row = connection.execute(
        select(table.c.kind, table.c.wrapped_key).where(table.c.tenant == tenant)
    ).first()
    return None if row is None else (row[0], bytes(row[1]))


def add_key(connection: Connection, tables: Tables, tenant: str, new: Sealed) -> None:
    """Make the row; of two who make it at once, one gets the driver's error, and starts over."""
    values = {"tenant": tenant, "kind": new[0], "wrapped_key": new[1]}
    connection.execute(insert(tables.tenants).values(values))


def change_key(
    connection: Connection, tables: Tables, tenant: str, old: Sealed, new: Sealed
) -> bool:
    """Put another key into the row, as the first statement of a transaction.

    From then on who wrote by the old key has committed, and can be seen; who comes later waits, and
    is refused.

    Returns:
        Whether the row held the old key; if not, nothing was changed.
    """
    if connection.dialect.name == "postgresql":
        _lock(connection, tables)
    table = tables.tenants
    own = (table.c.tenant == tenant, table.c.wrapped_key == old[1])
    changed = connection.execute(update(table).where(*own).values(kind=new[0], wrapped_key=new[1]))
    return changed.rowcount == 1


def _lock(connection: Connection, tables: Tables) -> None:
    preparer = connection.dialect.identifier_preparer
    facts = fact_tables(tables.schema, tables.prefix)
    # In the order in which a put (checkpoints first) and writes (blobs first) come by theirs.
    held = (tables.tenants, tables.checkpoints, tables.blobs, tables.channels, tables.writes)
    names = ", ".join(
        preparer.format_table(table) for table in (*held, facts.facts, facts.tombstones)
    )
    connection.execute(text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))


def holds_contents(
    connection: Connection, tables: Tables, tenant: str, *, opened: bool = True
) -> bool:
    """Whether anything is stored that a change of key would seal again.

    Also what no checkpoint leads to: writes that came before theirs, blobs that wait to be
    collected, facts. (Vectors belong to a fact.) One plain row that is left, and no key opens all.

    Args:
        connection: inside a transaction.
        tables: of the installation.
        tenant: whose contents.
        opened: whether it may have blobs, for which the whole table is read.
    """
    facts = fact_tables(tables.schema, tables.prefix)
    owned = [(table, tenant) for table in (tables.checkpoints, tables.writes)]
    owned += [(table, tenant_hash(tenant)) for table in (facts.facts, facts.tombstones)]
    if opened:
        owned.append((tables.blobs, tenant))
    return any(
        connection.execute(select(table.c.tenant).where(table.c.tenant == name).limit(1)).first()
        for table, name in owned
    )
