"""Forgetting: rows, closings, vectors, index entries and the bytes of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, or_, select

from deltamem_agents.checkpoint.engines import truncate_log
from deltamem_agents.checkpoint.fact_tables import delete_facts
from deltamem_agents.errors import FactStoreError
from deltamem_agents.router.facts import ForgetReport, Scope
from deltamem_agents.router.kept import clear
from deltamem_agents.router.outdated import spellings
from deltamem_agents.router.transactions import read, write

if TYPE_CHECKING:
    from deltamem_agents.router.shelf import Shelf


def forget(
    shelf: Shelf,
    scope: Scope,
    fact_ids: tuple[str, ...],
    message_ids: tuple[str, ...],
) -> ForgetReport:
    """Deletes facts for good; see `FactStore.forget`."""
    forgotten, values = write(shelf, lambda c: erase(shelf, c, scope, fact_ids, message_ids))
    purged = purge_file(shelf)
    left = read(shelf, lambda c: _chosen(shelf, c, scope, fact_ids, message_ids))
    if left:
        raise FactStoreError(
            "what is forgotten is not found again",
            got=f"{len(left)} facts",
            remedy="Another writer told it again meanwhile; call forget once more.",
        )
    told = read(shelf, lambda c: shelf.visible(c, scope))
    repeated = tuple(fact for fact in told if any(value in fact.quote.lower() for value in values))
    return ForgetReport(tuple(forgotten), repeated, purged=purged)


def erase(
    shelf: Shelf,
    connection: Connection,
    scope: Scope,
    fact_ids: tuple[str, ...],
    message_ids: tuple[str, ...],
) -> tuple[list[str], set[str]]:
    """Deletes facts within a transaction of the store's database, and leaves tombstones.

    What this process keeps of texts that it read before goes, too.

    Returns:
        The ids and the values (in lower case) of what was deleted.
    """
    clear()
    tables, now = shelf.tables, shelf.clock()
    rows = _chosen(shelf, connection, scope, fact_ids, message_ids)
    values = {shelf.fact(row).value.lower() for row in rows}
    for row in rows:
        connection.execute(
            tables.tombstones.insert().values(
                fact_id=row.fact_id,
                scope=scope.key,
                tenant=row.tenant,
                message=row.message,
                forgotten_at=now,
            )
        )
    delete_facts(connection, scope.key, [row.number for row in rows], tables)
    if rows and connection.dialect.name == "sqlite":
        name = tables.named("fact_words")
        connection.exec_driver_sql(f"INSERT INTO {name}({name}) VALUES ('optimize')")
    return [row.fact_id for row in rows], values


def purge_file(shelf: Shelf) -> bool:
    """Removes deleted rows' bytes from what the database keeps beside its tables.

    SQLite: the write-ahead log is emptied (the saver's connections overwrite deleted rows).
    PostgreSQL and MariaDB reuse the space of dead rows on their own (VACUUM, purge), beyond any
    client's reach.

    Returns:
        Whether the bytes are gone; False while another connection reads an older state.
    """
    return shelf.family != "sqlite" or truncate_log(shelf.engine)


def _chosen(
    shelf: Shelf,
    connection: Connection,
    scope: Scope,
    fact_ids: tuple[str, ...],
    message_ids: tuple[str, ...],
) -> list[Row[Any]]:
    column = shelf.tables.facts.c
    messages = [each for one in message_ids if one for each in spellings(shelf, one)]
    if not fact_ids and not messages:
        return []
    found = connection.execute(
        select(shelf.tables.facts)
        .where(
            column.scope == scope.key,
            or_(column.fact_id.in_(fact_ids), column.message.in_(messages)),
        )
        .order_by(column.number)
    )
    return list(found)
