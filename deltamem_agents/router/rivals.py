"""Open conflicts: active facts that tell another value of the same thing."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from deltamem_agents.router.facts import Fact, Scope
from deltamem_agents.router.rows import slot_named
from deltamem_agents.router.shelf import Shelf


def rivals(
    shelf: Shelf, connection: Connection, scope: Scope, facts: Sequence[Fact]
) -> tuple[Fact, ...]:
    """The active facts that dispute one of the facts, in one query; see `Fact.disputes`.

    Args:
        shelf: whose tables.
        connection: inside the operation's transaction.
        scope: whose, and which branch.
        facts: of a search.
    """
    stated = [fact for fact in facts if fact.slot]
    keys = {fact.slot for fact in stated}
    keys |= {shelf.keyed(slot_named("", fact.attribute)) for fact in stated}
    if not keys:
        return ()
    found = shelf.visible(connection, scope, shelf.tables.facts.c.slot.in_(sorted(keys)))
    return tuple(one for one in found if one.active and any(map(one.disputes, stated)))
