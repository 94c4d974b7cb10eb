"""Between rows of the tables and facts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from deltamem_agents.checkpoint.fact_tables import FactTables, branch_hash
from deltamem_agents.router.analyze import tokens
from deltamem_agents.router.facts import AUTHORITY, Draft, Fact, Scope

ASSERTERS = {number: name for name, number in AUTHORITY.items()}


def slot_of(draft: Draft) -> str:
    """What a draft is about, hashed: drafts of one slot take each other's place; "" for none.

    Without the scope, which every query names beside it: a copied thread's slots stay the same.
    """
    if not (draft.revisable or draft.kind == "mention") or not draft.attribute:
        return ""
    return slot_named(draft.subject, draft.attribute)


def slot_named(subject: str, attribute: str) -> str:
    """The slot of this attribute of this subject."""
    return hashed(" ".join(tokens(subject)), " ".join(tokens(attribute)))


def hashed(*parts: str) -> str:
    """Strings as one sha256, hex; "" alone stays ""."""
    if parts == ("",):
        return ""
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def body_of(
    scope: Scope, draft: Draft, message_id: str, metadata: Mapping[str, Any] | None
) -> bytes:
    """What only the tenant may read, as JSON in ASCII; metadata: of a document, else None."""
    body: dict[str, Any] = {
        "kind": draft.kind,
        "subject": draft.subject,
        "attribute": draft.attribute,
        "value": draft.value,
        "span": [draft.start, draft.end],
        "quote": draft.quote,
        "message": message_id,
        "checkpoint": scope.checkpoint,
        "sure": draft.sure,
    }
    if metadata is not None:
        body["metadata"] = dict(metadata)
    return json.dumps(body, default=str, skipkeys=True).encode("ascii")


def fact_of(row: Any, opened: bytes) -> Fact:
    """A row as a fact.

    Args:
        row: of the facts table.
        opened: its body, decrypted.
    """
    body = json.loads(opened)
    return Fact(
        fact_id=row.fact_id,
        kind=body["kind"],
        subject=body["subject"],
        attribute=body["attribute"],
        value=body["value"],
        start=body["span"][0],
        end=body["span"][1],
        quote=body["quote"],
        source_message_id=body["message"],
        branch=row.branch,
        checkpoint_id=body.get("checkpoint", ""),
        asserted_by=ASSERTERS[row.authority],  # type: ignore[arg-type]
        recorded_at=iso(row.recorded_at),
        slot=row.slot,
        number=row.number,
        metadata=body.get("metadata", {}),
        sure=body.get("sure", 1.0),
        document="metadata" in body,
    )


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def visible_in(scope: Scope) -> Callable[[str], bool]:
    """Tells whether what a head (by its hash) recorded is visible in the scope's branch."""
    if scope.lineage is None:
        return lambda branch: True
    line = {branch_hash(one) for one in scope.lineage} | {""}
    return line.__contains__


def closed_by(
    connection: Connection, tables: FactTables, scope: Scope, numbers: Sequence[int]
) -> dict[int, str]:
    """Which of the facts are closed in this branch: number -> id of what closed it, or "closed"."""
    if not numbers:
        return {}
    seen, closings, owner = visible_in(scope), tables.closings, tables.facts
    found = connection.execute(
        select(closings.c.old, closings.c.branch, owner.c.fact_id)
        .select_from(closings.outerjoin(owner, owner.c.number == closings.c.new))
        .where(closings.c.scope == scope.key, closings.c.old.in_(list(numbers)))
        .order_by(closings.c.number)
    )
    return {row.old: row.fact_id or "closed" for row in found if seen(row.branch)}


def with_closings(
    connection: Connection, tables: FactTables, scope: Scope, facts: Sequence[Fact]
) -> list[Fact]:
    """The facts, each told whether it is closed in this branch and by what."""
    closed = closed_by(connection, tables, scope, [fact.number for fact in facts])
    return [replace(fact, superseded_by=closed.get(fact.number)) for fact in facts]


def known_digests(
    connection: Connection, tables: FactTables, scope: Scope, digests: Collection[str]
) -> set[str]:
    """Which messages this branch has recorded already, by digest."""
    facts, seen = tables.facts, visible_in(scope)
    rows = connection.execute(
        select(facts.c.digest, facts.c.branch)
        .where(facts.c.scope == scope.key, facts.c.digest.in_(list(digests)))
        .distinct()
    )
    return {row.digest for row in rows if seen(row.branch)}


def add_head(connection: Connection, tables: FactTables, scope: Scope, head: str) -> None:
    """Notes a head with the one before it, once."""
    branches = tables.branches
    same = (branches.c.scope == scope.key, branches.c.head == head)
    if connection.execute(select(branches.c.head).where(*same)).first() is None:
        connection.execute(branches.insert().values(scope=scope.key, head=head, parent=scope.head))


def lineage_of(
    connection: Connection, tables: FactTables, scope: Scope, head: str
) -> tuple[str, ...]:
    """The head and its ancestors, newest first."""
    branches = tables.branches
    rows = connection.execute(
        select(branches.c.head, branches.c.parent).where(branches.c.scope == scope.key)
    )
    parents = {row.head: row.parent for row in rows}
    line = [head]
    while parent := parents.get(line[-1]):
        line.append(parent)
    return tuple(line)
