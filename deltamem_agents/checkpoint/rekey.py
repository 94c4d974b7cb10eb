"""Another key: every content of a tenant is opened and sealed again, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, case, delete, func, select, update

from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.checkpoint import rows
from deltamem_agents.checkpoint.fact_rows import rekey_facts
from deltamem_agents.checkpoint.fact_tables import fact_tables
from deltamem_agents.checkpoint.guard import refusal
from deltamem_agents.checkpoint.keys import change_key
from deltamem_agents.checkpoint.serde import MEMORY_KIND, Coder, with_cipher

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Table

    from deltamem_agents.checkpoint.context import Context, Key
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.statements import Statements
    from deltamem_agents.checkpoint.tables import Tables
    from deltamem_agents.checkpoint.transactions import Operation

PAGE = 200  # rows that are sealed again at once
PAGE_BYTES = 4_000_000  # of blobs, whose memories may be large


@dataclass(frozen=True)
class _Change:
    """From one coder to another."""

    connection: Connection
    statements: Statements
    tables: Tables
    tenant: str
    old: Coder
    new: Coder

    def seal(self, kind: str, data: bytes) -> dict[str, Any]:
        kind, sealed = self.new.seal(*self.old.open(kind, data))
        return {"kind": kind, "data": sealed}


def rekey(context: Context, key: Key) -> Operation[Key]:
    """Seal the tenant's contents with another key; returns it.

    Others may go on writing: what they sealed before is refused, see `guard`.
    """
    return lambda session: _rekey(session, context, key)


def _rekey(session: Session, context: Context, key: Key) -> Key:
    new = Coder(with_cipher(context.coder.serde, key.cipher), key.salt)
    parts = (context.tables, context.tenant, context.coder, new)
    change = _Change(session.core, session.statements, *parts)
    if not change_key(session.core, context.tables, context.tenant, context.key.row, key.row):
        raise refusal(context)
    _blobs(change)
    _writes(change)
    _checkpoints(change)
    _facts(session, change, context)
    return key


def _facts(session: Session, change: _Change, context: Context) -> None:
    tables = fact_tables(context.tables.schema, context.tables.prefix)
    rekey_facts(session.core, tables, change.tenant, change.old, change.new)
    if session.statements.family == "sqlite":
        index = tables.named("fact_words")
        session.core.exec_driver_sql(f"INSERT INTO {index}({index}) VALUES ('optimize')")


def _blobs(change: _Change) -> None:
    blobs = change.tables.blobs
    own = select(blobs.c.hash, func.length(blobs.c.data)).where(blobs.c.tenant == change.tenant)
    for hashes in _pages(change.connection.execute(own).all()):
        _seal_blobs(change, hashes)


def _pages(sizes: Sequence[Any]) -> Iterator[list[bytes]]:
    """Hashes of so many blobs as fit into memory at once."""
    page: list[bytes] = []
    room = PAGE_BYTES
    for address, size in sizes:
        if page and (len(page) == PAGE or size > room):
            yield page
            page, room = [], PAGE_BYTES
        page.append(bytes(address))
        room -= size
    if page:
        yield page


def _seal_blobs(change: _Change, hashes: Sequence[bytes]) -> None:
    """Blobs under their new hashes; references follow."""
    blobs, connection = change.tables.blobs, change.connection
    sealed, moved, memories = [], {}, False
    query = select(blobs.c.hash, blobs.c.kind, blobs.c.data).where(blobs.c.hash.in_(hashes))
    for address, kind, data in connection.execute(query).all():
        old = bytes(address)
        plain, opened = change.old.open(kind, data)
        change.old.verify(plain, opened, old)
        new = change.new.digest(plain, opened)
        row = dict(zip(("kind", "data"), change.new.seal(plain, opened), strict=True))
        sealed.append({"hash": new, "tenant": change.tenant, **row})
        memories = memories or plain == MEMORY_KIND
        if new != old:
            moved[old] = new
    connection.execute(change.statements.replace(blobs), sealed)
    if moved:
        _move(change, moved, memories)
        connection.execute(delete(blobs).where(blobs.c.hash.in_(moved)))


def _move(change: _Change, moved: dict[bytes, bytes], memories: bool) -> None:
    """Let what refers to blobs refer to others."""
    channels, writes = change.tables.channels, change.tables.writes
    if memories:  # found by their channels, which have an index of blobs
        held = change.tables.memory_states
        same = [held.c[name] == channels.c[name] for name in ("checkpoint", "channel", "blob")]
        change.connection.execute(
            update(held)
            .where(*same, channels.c.blob.in_(moved))
            .values(blob=case(moved, value=held.c.blob))
        )
    for table in (channels, writes):
        change.connection.execute(
            update(table)
            .where(table.c.blob.in_(moved))
            .values(blob=case(moved, value=table.c.blob))
        )


def _writes(change: _Change) -> None:
    table = change.tables.writes
    inline = select(table).where(table.c.tenant == change.tenant, table.c.kind.is_not(None))
    _seal_rows(change, table, change.connection.execute(inline).all())


def _seal_rows(change: _Change, table: Table, found: Sequence[Row[Any]]) -> None:
    """Values that are in the rows themselves."""
    statement = change.statements.replace(table)
    for start in range(0, len(found), PAGE):
        part = found[start : start + PAGE]
        change.connection.execute(
            statement, [{**row._mapping, **change.seal(row.kind, row.data)} for row in part]
        )


def _checkpoints(change: _Change) -> None:
    table, channels = change.tables.checkpoints, change.tables.channels
    last = 0
    while True:
        found = change.connection.execute(
            select(table.c.id, table.c.metadata, table.c.kind, table.c.body)
            .where(table.c.tenant == change.tenant, table.c.id > last)
            .order_by(table.c.id)
            .limit(PAGE)
        ).all()
        if not found:
            return
        _seal_heads(change, found)
        numbers = channels.c.checkpoint.in_([row.id for row in found])
        inline = select(channels).where(numbers, channels.c.kind.is_not(None))
        _seal_rows(change, channels, change.connection.execute(inline).all())
        last = found[-1].id


def _seal_heads(change: _Change, found: Sequence[Row[Any, Any, Any, Any]]) -> None:
    table = change.tables.checkpoints
    changed = []
    for number, stored, kind, body in found:
        metadata = rows.load_metadata(stored, change.old)
        changed.append(
            {
                "number": number,
                "new_metadata": rows.dump_metadata(metadata, change.new),
                "new_terms": meta.terms(metadata, change.new.salt),
                **{f"new_{name}": value for name, value in change.seal(kind, body).items()},
            }
        )
    change.connection.execute(
        update(table)
        .where(table.c.id == bindparam("number"))
        .values(
            metadata=bindparam("new_metadata"),
            terms=bindparam("new_terms"),
            kind=bindparam("new_kind"),
            body=bindparam("new_data"),
        ),
        changed,
    )
