"""Another key: every content of a tenant is opened and sealed again, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, insert, select, update

from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.checkpoint import rows
from deltamem_agents.checkpoint.fact_rows import rekey_facts
from deltamem_agents.checkpoint.fact_tables import fact_tables
from deltamem_agents.checkpoint.guard import refusal
from deltamem_agents.checkpoint.keys import change_key
from deltamem_agents.checkpoint.serde import Coder, with_cipher

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

    from deltamem_agents.checkpoint.context import Context, Key
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.tables import Tables
    from deltamem_agents.checkpoint.transactions import Operation

PAGE = 200


@dataclass(frozen=True)
class _Change:
    """From one coder to another."""

    connection: Connection
    tables: Tables
    tenant: str
    old: Coder
    new: Coder

    def seal(self, kind: str, data: bytes) -> tuple[str, bytes]:
        return self.new.seal(*self.old.open(kind, data))


def rekey(context: Context, key: Key) -> Operation[Key]:
    """Seal the tenant's contents with another key; returns it.

    Others may go on writing: what they sealed before is refused, see `guard`.
    """
    return lambda session: _rekey(session, context, key)


def _rekey(session: Session, context: Context, key: Key) -> Key:
    new = Coder(with_cipher(context.coder.serde, key.cipher), key.salt)
    change = _Change(session.core, context.tables, context.tenant, context.coder, new)
    if not change_key(session.core, context.tables, context.tenant, context.key.row, key.row):
        raise refusal(context)
    _blobs(change)
    _inline(change, change.tables.channels, _of_tenant(change))
    _inline(change, change.tables.writes, change.tables.writes.c.tenant == change.tenant)
    _heads(change)
    _facts(session, change, context)
    return key


def _facts(session: Session, change: _Change, context: Context) -> None:
    tables = fact_tables(context.tables.schema, context.tables.prefix)
    rekey_facts(session.core, tables, change.tenant, change.old, change.new)
    if session.statements.family == "sqlite":
        index = tables.named("fact_words")
        session.core.exec_driver_sql(f"INSERT INTO {index}({index}) VALUES ('optimize')")


def _of_tenant(change: _Change) -> Any:
    heads = change.tables.checkpoints
    return change.tables.channels.c.checkpoint.in_(
        select(heads.c.id).where(heads.c.tenant == change.tenant)
    )


def _blobs(change: _Change) -> None:
    """Each blob under its new hash; references follow."""
    tables, connection = change.tables, change.connection
    blobs = tables.blobs
    hashes = [
        bytes(entry)
        for entry in connection.execute(
            select(blobs.c.hash).where(blobs.c.tenant == change.tenant)
        ).scalars()
    ]
    for old in hashes:
        kind, data = connection.execute(
            select(blobs.c.kind, blobs.c.data).where(blobs.c.hash == old)
        ).one()
        plain, opened = change.old.open(kind, data)
        change.old.verify(plain, opened, old)
        new = change.new.digest(plain, opened)
        sealed_kind, sealed = change.new.seal(plain, opened)
        if new == old:
            connection.execute(
                update(blobs).where(blobs.c.hash == old).values(kind=sealed_kind, data=sealed)
            )
            continue
        connection.execute(
            insert(blobs).values(hash=new, tenant=change.tenant, kind=sealed_kind, data=sealed)
        )
        for table in (tables.channels, tables.writes, tables.memory_states):
            connection.execute(update(table).where(table.c.blob == old).values(blob=new))
        connection.execute(delete(blobs).where(blobs.c.hash == old))


def _inline(change: _Change, table: Table, where: Any) -> None:
    keys = list(table.primary_key.columns)
    found = change.connection.execute(
        select(*keys, table.c.kind, table.c.data).where(where, table.c.kind.is_not(None))
    ).all()
    for row in found:
        kind, data = change.seal(row[-2], row[-1])
        own = and_(*(key == value for key, value in zip(keys, row, strict=False)))
        change.connection.execute(update(table).where(own).values(kind=kind, data=data))


def _heads(change: _Change) -> None:
    table = change.tables.checkpoints
    last = 0
    while True:
        found = change.connection.execute(
            select(table.c.id, table.c.metadata, table.c.kind, table.c.body)
            .where(table.c.tenant == change.tenant, table.c.id > last)
            .order_by(table.c.id)
            .limit(PAGE)
        ).all()
        for number, stored, kind, body in found:
            metadata = rows.load_metadata(stored, change.old)
            new_kind, new_body = change.seal(kind, body)
            change.connection.execute(
                update(table)
                .where(table.c.id == number)
                .values(
                    metadata=rows.dump_metadata(metadata, change.new),
                    terms=meta.terms(metadata, change.new.salt),
                    kind=new_kind,
                    body=new_body,
                )
            )
        if not found:
            return
        last = found[-1][0]
