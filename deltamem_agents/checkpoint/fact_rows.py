"""Facts that follow their thread: into a copy of it, and under another key.

A fact is visible in a branch by the heads that recorded it, and a copied checkpoint's state keeps
its head: so heads, branches and hashes stay as they are, and only scope, number and id are new.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, insert, select

from deltamem_agents.checkpoint.embeddings import clear_embeddings
from deltamem_agents.checkpoint.fact_tables import (
    FactTables,
    scope_hash,
    scoped,
    tenant_hash,
    unscoped,
)
from deltamem_agents.checkpoint.serde import Coder
from deltamem_agents.errors import EncryptionError


def has_facts(connection: Connection, tables: FactTables, tenant: str, thread: str) -> bool:
    """Whether a thread has facts, or has forgotten some."""
    scope = scope_hash(tenant, thread)
    return any(
        connection.execute(select(table.c.scope).where(table.c.scope == scope).limit(1)).first()
        for table in (tables.facts, tables.tombstones)
    )


def copy_facts(
    connection: Connection, tables: FactTables, tenant: str, source: str, target: str
) -> int:
    """Copy the facts of a thread with closings, vectors, heads and tombstones; how many facts.

    Args:
        connection: inside the copy's transaction.
        tables: of the installation.
        tenant: whose threads they are.
        source: the thread that is copied.
        target: a thread without facts.
    """
    old, new = scope_hash(tenant, source), scope_hash(tenant, target)
    numbers = {0: 0}  # 0 closes outright
    for row in _rows(connection, tables.facts, old):
        values = {**row._mapping, "scope": new, "fact_id": uuid.uuid4().hex}
        if row.words is not None:
            values["words"] = " ".join(scoped(new, unscoped(old, row.words)))
        number = values.pop("number")
        made = connection.execute(insert(tables.facts).values(values)).inserted_primary_key
        assert made is not None  # the insert asks for it
        numbers[number] = made[0]
    for row in _rows(connection, tables.closings, old):
        places = {"old": numbers.get(row.old), "new": numbers.get(row.new)}
        if None not in places.values():
            _again(connection, tables.closings, row, scope=new, **places)
    for row in _rows(connection, tables.vectors, old):
        if row.fact in numbers:  # not one that somebody recorded since the facts were read
            _again(connection, tables.vectors, row, scope=new, fact=numbers[row.fact])
    for row in _rows(connection, tables.branches, old):
        _again(connection, tables.branches, row, scope=new)
    for row in _rows(connection, tables.tombstones, old):
        _again(connection, tables.tombstones, row, scope=new, fact_id=uuid.uuid4().hex)
    return len(numbers) - 1


def _rows(connection: Connection, table: Table, scope: str) -> Sequence[Row[Any]]:
    first = next(iter(table.primary_key))
    return connection.execute(select(table).where(table.c.scope == scope).order_by(first)).all()


def _again(connection: Connection, table: Table, row: Row[Any], **changed: Any) -> None:
    values = {**row._mapping, **changed}
    if table.c[next(iter(table.primary_key)).name].autoincrement is True:
        del values["number"]
    connection.execute(insert(table).values(values))


def seal(coder: Coder, body: bytes) -> bytes:
    """A fact's body, or its vector, as the row holds it."""
    if coder.cipher is None:
        return body
    kind, data = coder.seal("json", body)
    return kind.encode("ascii") + b"\0" + data


def unseal(coder: Coder, data: bytes) -> bytes:
    """What `seal` was given.

    Raises:
        EncryptionError: it is plain where content is encrypted, or the reverse.
    """
    if data[:1] in (b"{", b"f"):  # a plain body, a plain vector
        return coder.open("json", data)[1]
    kind, _, sealed = data.partition(b"\0")
    return coder.open(kind.decode("ascii", "replace"), sealed)[1]


def keyed(coder: Coder, hashed: str) -> str:
    """A hash of content as the row holds it: under a key where content is encrypted."""
    if coder.cipher is None or not hashed:
        return hashed
    return coder.digest("fact", hashed.encode("ascii")).hex()


def rekey_facts(
    connection: Connection,
    tables: FactTables,
    tenant: str,
    old: Coder,
    new: Coder,
) -> int:
    """Open and seal again what the tenant's facts hold; how many facts.

    Keyed hashes are taken over where both are encrypted, since both have the same secret.

    Args:
        connection: inside the change's transaction.
        tables: of the installation.
        tenant: whose facts.
        old: opens what is there.
        new: seals it again.

    Raises:
        EncryptionError: the tenant is to be decrypted for good and has facts or tombstones, whose
            hashes cannot be made again from what is stored.
    """
    facts, vectors = tables.facts, tables.vectors
    found = connection.execute(select(facts).where(facts.c.tenant == tenant_hash(tenant))).all()
    if new.cipher is None:
        _refuse_keyed(connection, tables, tenant, len(found))
    hide: Callable[[str], str] = (lambda entry: entry) if old.cipher else _keyed_by(new)
    for row in found:
        held = vectors.c.fact == row.number
        for vector in connection.execute(select(vectors).where(held)).all():
            own = (held, vectors.c.model == vector.model)
            sealed = seal(new, unseal(old, bytes(vector.vector)))
            connection.execute(vectors.update().where(*own).values(vector=sealed))
        changed = {name: hide(row._mapping[name]) for name in ("slot", "digest", "message")}
        body = seal(new, unseal(old, bytes(row.body)))
        renew(connection, tables, row, **changed, body=body, words=None)
    clear_embeddings(connection, tables, tenant)
    _tombstones(connection, tables, tenant, hide)
    return len(found)


def _refuse_keyed(connection: Connection, tables: FactTables, tenant: str, facts: int) -> None:
    """A tombstone that nothing matches any more would let what was forgotten come back."""
    own = tables.tombstones.c.tenant == tenant_hash(tenant)
    forgotten = connection.scalar(select(func.count()).where(own)) or 0
    if facts or forgotten:
        raise EncryptionError(
            "a tenant that is decrypted for good has no facts and has forgotten none",
            got=f"{facts} facts, {forgotten} forgotten ones",
            remedy="Delete the threads that they are of, or rotate to another key.",
        )


def _keyed_by(coder: Coder) -> Callable[[str], str]:
    return lambda hashed: keyed(coder, hashed)


def _tombstones(
    connection: Connection, tables: FactTables, tenant: str, hide: Callable[[str], str]
) -> None:
    table = tables.tombstones
    own = table.c.tenant == tenant_hash(tenant)
    for row in connection.execute(select(table).where(own)).all():
        one = table.c.fact_id == row.fact_id
        connection.execute(table.update().where(one).values(message=hide(row.message)))


def renew(connection: Connection, tables: FactTables, row: Row[Any], **changed: Any) -> None:
    """A fact's row with new values, under its old number.

    Not an update: the full-text index follows rows that go and rows that come.
    """
    facts = tables.facts
    connection.execute(delete(facts).where(facts.c.number == row.number))
    connection.execute(insert(facts).values({**row._mapping, **changed}))
