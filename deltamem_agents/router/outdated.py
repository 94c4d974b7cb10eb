"""Rows that older versions of this package hashed otherwise: made anew, or still recognised.

Slots once held the scope too, and words did not; where content is encrypted the key was put on
another form of what was hashed. Slots and words are made anew from the fact's body. Of a forgotten
message no more than the hash is left, and of one that was heard not its whole text: these keep
theirs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, select

from deltamem_agents.checkpoint import fact_rows
from deltamem_agents.checkpoint.fact_tables import tenant_hash
from deltamem_agents.router.keyword import index_text, words_of
from deltamem_agents.router.rows import hashed, slot_named

if TYPE_CHECKING:
    from deltamem_agents.router.shelf import Shelf


def renew(connection: Connection, shelf: Shelf) -> None:
    """Derives slots and words of a tenant's facts anew; does nothing where no step noted it.

    Raises:
        EncryptionError: content is encrypted, and not with this key; nothing was changed.
    """
    facts, outdated = shelf.tables.facts, shelf.tables.outdated
    tenant = tenant_hash(shelf.tenant)
    if not connection.execute(delete(outdated).where(outdated.c.tenant == tenant)).rowcount:
        return
    for row in connection.execute(select(facts).where(facts.c.tenant == tenant)).all():
        fact = shelf.fact(row)
        slot = shelf.keyed(slot_named(fact.subject, fact.attribute)) if row.slot else ""
        hidden = shelf.encrypted or fact.kind == "mention"
        words = None if hidden else index_text(row.scope, words_of(fact))
        fact_rows.renew(connection, shelf.tables, row, slot=slot, words=words)


def spellings(shelf: Shelf, part: str) -> tuple[str, ...]:
    """A digest or a message's hash as `Shelf.keyed` makes it, then as older rows may hold it."""
    if shelf.coder is None or not shelf.encrypted or not part:
        return (shelf.keyed(part),)
    first = shelf.coder.digest("fact", json.dumps([part]).encode("ascii")).hex()
    # The plain one: a change of key once passed over tombstones of threads that had nothing else.
    return (shelf.keyed(part), first, hashed(part))
