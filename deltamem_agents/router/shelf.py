"""Reading and writing facts inside a transaction: what `FactStore`'s operations are made of."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, func, select

from deltamem_agents.checkpoint import fact_rows
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.fact_tables import FactTables, branch_hash, tenant_hash
from deltamem_agents.checkpoint.serde import Coder
from deltamem_agents.errors import FactStoreError
from deltamem_agents.router.facts import AUTHORITY, Draft, Fact, Scope
from deltamem_agents.router.keyword import index_text, words_of
from deltamem_agents.router.messages import Heard
from deltamem_agents.router.outdated import spellings
from deltamem_agents.router.reading import SURE
from deltamem_agents.router.rows import (
    add_head,
    body_of,
    fact_of,
    hashed,
    known_digests,
    slot_named,
    slot_of,
    visible_in,
    with_closings,
)


@dataclass(frozen=True)
class Shelf:
    """One tenant's tables.

    Attributes:
        engine: of the saver.
        tables: of the installation.
        tenant: whose.
        clock: seconds since 1970, UTC.
        context: the saver's, with the key that seals; None where it has none.
    """

    engine: Engine
    tables: FactTables
    tenant: str
    clock: Callable[[], float]
    context: Context | None = None

    @property
    def coder(self) -> Coder | None:
        """Seals and opens; None where nothing is ever encrypted."""
        return None if self.context is None else self.context.coder

    @property
    def family(self) -> str:
        """Of the database: "sqlite", "postgresql" or "mysql"."""
        name = self.engine.dialect.name
        return name if name in ("sqlite", "postgresql") else "mysql"

    @property
    def encrypted(self) -> bool:
        """Whether content is encrypted; then there is no full-text index."""
        return self.coder is not None and self.coder.cipher is not None

    def keyed(self, part: str) -> str:
        """Content as a hash: a keyed one where content is encrypted; "" stays ""."""
        plain = hashed(part)
        return plain if self.coder is None else fact_rows.keyed(self.coder, plain)

    def seal(self, body: bytes) -> bytes:
        """A body or a vector as its row holds it."""
        return body if self.coder is None else fact_rows.seal(self.coder, body)

    def fact(self, row: Row[Any]) -> Fact:
        """A row as a fact.

        Raises:
            EncryptionError: it is plain where content is encrypted, or the reverse.
        """
        return fact_of(row, self.open(bytes(row.body)))

    def open(self, data: bytes) -> bytes:
        """What `seal` was given.

        Raises:
            EncryptionError: it is plain where content is encrypted, or the reverse.
        """
        return data if self.coder is None else fact_rows.unseal(self.coder, data)

    # ------------------------------------------------------------------ writing

    def record(
        self,
        connection: Connection,
        scope: Scope,
        told: Mapping[str, Heard],
        drafts: Mapping[str, Sequence[Draft]],
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> tuple[Fact, ...]:
        """Inserts the drafts of messages that this branch has not recorded yet.

        Args:
            connection: inside the operation's transaction.
            scope: whose.
            told: digest -> message.
            drafts: digest -> facts of that message.
            metadata: digest -> what is known of that document.
        """
        new: list[Fact] = []
        for digest, found in self._new(connection, scope, told, drafts).items():
            one, more = told[digest], (metadata or {}).get(digest)
            new += [
                self.insert(connection, scope, one, draft, (digest, ordinal), more)
                for ordinal, draft in enumerate(found)
            ]
        return tuple(new)

    def hear(
        self,
        connection: Connection,
        scope: Scope,
        told: Mapping[str, Heard],
        drafts: Mapping[str, Sequence[Draft]],
    ) -> Scope:
        """Records what this branch has not recorded yet under a head of its own."""
        new = self._new(connection, scope, told, drafts)
        if not new:
            return scope
        head = hashed(scope.head, *sorted(new))[:32]
        onward = replace(scope, lineage=(head, *(scope.lineage or ())))
        add_head(connection, self.tables, scope, head)
        self.record(connection, onward, told, new)
        return onward

    def _new(
        self,
        connection: Connection,
        scope: Scope,
        told: Mapping[str, Heard],
        drafts: Mapping[str, Sequence[Draft]],
    ) -> dict[str, Sequence[Draft]]:
        """The drafts of messages that this branch has not recorded, and that none forgot."""
        spelled = {each: d for d in drafts for each in spellings(self, told[d].digest)}
        known = {spelled[each] for each in known_digests(connection, self.tables, scope, spelled)}
        column = self.tables.tombstones.c
        named = select(column.message).where(column.scope == scope.key, column.message != "")
        buried = set(connection.scalars(named))
        known |= {d for d in drafts if buried & {*spellings(self, told[d].message_id)}}
        return {digest: found for digest, found in drafts.items() if digest not in known}

    def insert(
        self,
        connection: Connection,
        scope: Scope,
        one: Heard,
        draft: Draft,
        place: tuple[str, int],
        metadata: Mapping[str, Any] | None = None,
    ) -> Fact:
        """Inserts one fact and closes what it takes the place of; place: digest and ordinal."""
        draft = self._about(connection, scope, draft)
        body = body_of(scope, draft, one.message_id, metadata)
        row: dict[str, Any] = {
            "fact_id": uuid.uuid4().hex,
            "tenant": tenant_hash(self.tenant),
            "scope": scope.key,
            "slot": self.keyed(slot_of(draft)),
            "digest": place[0],
            "ordinal": place[1],
            "message": self.keyed(one.message_id),
            "branch": branch_hash(scope.head),
            "authority": AUTHORITY[one.role or "tool"],
            "recorded_at": self.clock(),
            "body": self.seal(body),
        }
        fact = fact_of(SimpleNamespace(number=0, **row), body)
        found = not self.encrypted and fact.kind != "mention"  # that is met by its slot only
        row["words"] = index_text(scope.key, words_of(fact)) if found else None
        key = connection.execute(self.tables.facts.insert().values(row)).inserted_primary_key
        assert key is not None  # the insert asks for it
        fact = replace(fact, number=key[0])
        if fact.slot and fact.sure >= SURE:
            self._supersede(connection, scope, fact)
        return fact

    def _about(self, connection: Connection, scope: Scope, draft: Draft) -> Draft:
        """The draft, of another slot that it may be about if only that one is known here."""
        if not draft.others:
            return draft
        named = [(draft.subject, draft.attribute), *draft.others]
        slots = [self.keyed(slot_named(*one)) for one in named]
        facts = self.visible(connection, scope, self.tables.facts.c.slot.in_(slots))
        known = {fact.slot for fact in facts if fact.active}
        places = [place for place, slot in enumerate(slots) if slot in known]
        if not places or places[0] == 0:
            return draft
        subject, attribute = named[places[0]]
        return replace(draft, subject=subject, attribute=attribute)

    def revise(
        self,
        connection: Connection,
        scope: Scope,
        fact_id: str,
        told: Mapping[str, Heard],
        drafts: Mapping[str, Sequence[Draft]],
    ) -> Fact:
        """Puts the first fitting draft in the place of a fact; see `FactStore.revise`."""
        old = self.one(connection, scope, fact_id)
        for digest, found in drafts.items():
            for ordinal, draft in enumerate(found):
                same = not old.slot or self.keyed(slot_of(draft)) == old.slot
                if old.active and same and draft.kind != "mention" and draft.sure >= SURE:
                    new = self.insert(connection, scope, told[digest], draft, (digest, ordinal))
                    if self.one(connection, scope, fact_id).active:
                        self.close(connection, scope, old.number, new.number)
                    return new
        raise FactStoreError(
            "a revision tells a new value of an active fact's subject and attribute",
            got=f"{old.subject!r} {old.attribute!r}",
            remedy="Name the same subject and attribute in the statement.",
        )

    def close_outright(self, connection: Connection, scope: Scope, fact_id: str) -> Fact:
        """Closes a fact with nothing in its place; see `FactStore.close`."""
        fact = self.one(connection, scope, fact_id)
        if not fact.active:
            raise FactStoreError(
                "a fact is closed once",
                got=fact_id,
                remedy="Nothing is left to do; see `deltamem facts list`.",
            )
        self.close(connection, scope, fact.number, 0)
        return replace(fact, superseded_by="closed")

    def _supersede(self, connection: Connection, scope: Scope, new: Fact) -> None:
        """Closes what is older, visible in this branch and of no greater authority."""
        for fact in self.slot(connection, scope, new.slot):
            outranks = AUTHORITY[fact.asserted_by] <= AUTHORITY[new.asserted_by]
            if fact.number != new.number and fact.active and outranks:
                self.close(connection, scope, fact.number, new.number)

    def close(self, connection: Connection, scope: Scope, old: int, new: int) -> None:
        """Closes a fact from the scope's head on, by another fact or outright (0)."""
        connection.execute(
            self.tables.closings.insert().values(
                scope=scope.key,
                old=old,
                new=new,
                branch=branch_hash(scope.head),
                closed_at=self.clock(),
            )
        )

    # ------------------------------------------------------------------ reading

    def visible(
        self, connection: Connection, scope: Scope, *where: ColumnElement[bool]
    ) -> list[Fact]:
        """The facts of this branch that fulfil a condition, oldest first, closed ones included."""
        column, seen = self.tables.facts.c, visible_in(scope)
        rows = connection.execute(
            select(self.tables.facts)
            .where(column.scope == scope.key, *where)
            .order_by(column.number)
        )
        found = [self.fact(row) for row in rows if seen(row.branch)]
        return with_closings(connection, self.tables, scope, found)

    def slot(self, connection: Connection, scope: Scope, slot: str) -> list[Fact]:
        """The facts of one slot, oldest first, closed ones included."""
        return self.visible(connection, scope, self.tables.facts.c.slot == slot)

    def one(self, connection: Connection, scope: Scope, fact_id: str) -> Fact:
        """A fact of this branch by its id.

        Raises:
            FactStoreError: there is none.
        """
        found = self.visible(connection, scope, self.tables.facts.c.fact_id == fact_id)
        if not found:
            raise FactStoreError(
                "a fact belongs to the scope that names it",
                got=fact_id,
                remedy="See `deltamem facts list` for the ids of its thread.",
            )
        return found[0]

    def count(self, connection: Connection, scope: Scope | None = None, most: int = 0) -> int:
        """How many facts a scope holds (counted up to `most`), or the tenant without one."""
        column = self.tables.facts.c
        of_tenant = column.tenant == tenant_hash(self.tenant)
        where = of_tenant if scope is None else column.scope == scope.key
        found = select(column.number).where(where).limit(most or None).subquery()
        return connection.scalar(select(func.count()).select_from(found)) or 0
