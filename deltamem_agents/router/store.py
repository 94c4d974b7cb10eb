"""The exact store: facts verbatim, with where they came from, in the saver's own database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.fact_tables import (
    create_fact_tables,
    fact_tables,
)
from deltamem_agents.errors import FactStoreError
from deltamem_agents.router.analyze import content
from deltamem_agents.router.extract import extract
from deltamem_agents.router.facts import Draft, Fact, ForgetReport, Hit, Scope
from deltamem_agents.router.forget import forget
from deltamem_agents.router.keyword import bm25, words_of
from deltamem_agents.router.messages import Heard, Message, heard
from deltamem_agents.router.rows import (
    add_head,
    hashed,
    known_digests,
    lineage_of,
    slot_of,
)
from deltamem_agents.router.shelf import Shelf

T = TypeVar("T")


class Saver(Protocol):
    """What the store needs of a saver."""

    @property
    def engine(self) -> Engine:
        """The synchronous engine."""

    @property
    def tenant(self) -> str:
        """Whose data it holds."""


class FactStore:
    """Facts of one tenant, beside its checkpoints.

    Every search and every write names a `Scope`; tenant and thread are compared as equalities.

    Args:
        saver: an opened `SQLAlchemySaver`, or anything with `engine` and `tenant`.
        keep_secrets: keep passwords, keys and card numbers instead of "[redacted]".
        read_assistant: also read facts from the assistant's messages; they never take the place
            of what the user or a tool said.
        clock: seconds since 1970, UTC.
    """

    def __init__(
        self,
        saver: Saver,
        *,
        keep_secrets: bool = False,
        read_assistant: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine, self.tenant = saver.engine, saver.tenant
        self.keep_secrets, self.read_assistant = keep_secrets, read_assistant
        context: Context | None = getattr(saver, "context", None)
        self.tables = fact_tables()
        if context is not None:
            self.tables = fact_tables(context.tables.schema, context.tables.prefix)
        self.shelf = Shelf(self.tables, self.tenant, clock, context.coder if context else None)
        with self.engine.begin() as connection:
            create_fact_tables(connection, self.tables.schema, self.tables.prefix)

    def __repr__(self) -> str:
        return f"FactStore({self.engine.dialect.name}, tenant={self.tenant!r})"

    # ------------------------------------------------------------------ writing

    def record(self, message: Message, scope: Scope) -> tuple[Fact, ...]:
        """Reads the facts of one message into the store; see `record_all`."""
        return self.record_all([message], scope)

    def record_all(self, messages: Iterable[Message], scope: Scope) -> tuple[Fact, ...]:
        """Reads the facts of messages into the store, in one transaction.

        A message that this branch has heard already (same role, text and id) is passed over, so
        that a history may be given again and again.

        Args:
            messages: LangChain messages, dicts, or a user's text; system messages tell nothing.
            scope: whose; the facts belong to the head of its lineage.

        Returns:
            The facts that are new.
        """
        self._own(scope)
        told, drafts = self._read(messages)
        if not drafts:
            return ()
        return self._write(lambda connection: self.shelf.record(connection, scope, told, drafts))

    def hear(self, messages: Iterable[Message], scope: Scope) -> Scope:
        """Records messages under a new head of the branch, which the caller keeps in its state.

        The head is derived from the one before it and from what was heard, so that a retry of the
        same step comes to the same head and records nothing twice.

        Args:
            messages: the history, or what is new of it.
            scope: of `branch(thread, head)`.

        Returns:
            The scope with the new head; the same scope if there was no new fact.
        """
        self._own(scope)
        told, drafts = self._read(messages)
        if not drafts:
            return scope

        def work(connection: Connection) -> Scope:
            known = known_digests(connection, self.tables, scope, drafts)
            new = {digest: found for digest, found in drafts.items() if digest not in known}
            if not new:
                return scope
            head = hashed(scope.head, *sorted(new))[:32]
            onward = replace(scope, lineage=(head, *(scope.lineage or ())))
            add_head(connection, self.tables, scope, head)
            self.shelf.record(connection, onward, told, new)
            return onward

        return self._write(work)

    def branch(self, thread: str, head: str = "", checkpoint: str = "") -> Scope:
        """The scope of a branch of a thread.

        Args:
            thread: the thread's id.
            head: as `hear` gave it and the graph's state kept it; "" for a branch that has heard
                nothing yet.
            checkpoint: the running checkpoint's id, noted with new facts.
        """
        scope = Scope(self.tenant, thread, (), checkpoint)
        if not head:
            return scope
        with self.engine.begin() as connection:
            return replace(scope, lineage=lineage_of(connection, self.tables, scope, head))

    def _read(
        self, messages: Iterable[Message]
    ) -> tuple[dict[str, Heard], dict[str, tuple[Draft, ...]]]:
        told = {
            self.shelf.keyed(one.digest): one for one in map(heard, messages) if self._listens(one)
        }
        drafts = {
            digest: extract(one.text, keep_secrets=self.keep_secrets)
            for digest, one in told.items()
        }
        return told, {digest: found for digest, found in drafts.items() if found}

    def _write(self, work: Callable[[Connection], T]) -> T:
        try:
            with self.engine.begin() as connection:
                return work(connection)
        except IntegrityError:  # another process recorded the same message in between
            with self.engine.begin() as connection:
                return work(connection)

    def _listens(self, one: Heard) -> bool:
        return one.role in ("user", "tool") or (one.role == "assistant" and self.read_assistant)

    def close(self, fact_id: str, scope: Scope) -> Fact:
        """Says that a fact no longer holds, from the scope's head on, with nothing in its place.

        Raises:
            FactStoreError: there is no such fact in the scope, or it is closed already.
        """
        self._own(scope)
        with self.engine.begin() as connection:
            fact = self.shelf.one(connection, scope, fact_id)
            if not fact.active:
                raise FactStoreError("a fact is closed once", got=fact_id)
            self.shelf.close(connection, scope, fact.number, 0)
        return replace(fact, superseded_by="closed")

    def revise(self, fact_id: str, statement: Message, scope: Scope) -> Fact:
        """Closes a fact and records the statement that takes its place, in one transaction.

        Args:
            fact_id: of an active fact in the scope.
            statement: tells the new value of the same thing ("my port is 81").
            scope: whose.

        Returns:
            The new fact.

        Raises:
            FactStoreError: no such active fact, or the statement says nothing about it.
        """
        self._own(scope)
        one = heard(statement)
        drafts = extract(one.text, keep_secrets=self.keep_secrets)
        with self.engine.begin() as connection:
            old = self.shelf.one(connection, scope, fact_id)
            fitting = [
                d for d in drafts if not old.slot or self.shelf.keyed(slot_of(scope, d)) == old.slot
            ]
            if not old.active or not fitting:
                raise FactStoreError(
                    "a revision tells a new value of an active fact's subject and attribute",
                    got=f"{one.text!r} for {old.subject!r} {old.attribute!r}",
                    remedy="Name the same subject and attribute in the statement.",
                )
            new = self.shelf.insert(
                connection, scope, one, fitting[0], (self.shelf.keyed(one.digest), 0)
            )
            closed = self.shelf.one(connection, scope, fact_id)
            if closed.active:
                self.shelf.close(connection, scope, old.number, new.number)
        return new

    def forget(
        self,
        scope: Scope,
        *,
        fact_ids: Sequence[str] = (),
        message_ids: Sequence[str] = (),
    ) -> ForgetReport:
        """Deletes facts in every branch of the thread and purges index and file of them.

        A content-free tombstone stays, by which the same messages are not recorded again.

        Args:
            scope: whose; its lineage plays no part.
            fact_ids: facts to delete.
            message_ids: all facts of these messages.

        Raises:
            FactStoreError: something of it was found again afterwards.
        """
        self._own(scope)
        return forget(self, scope, tuple(fact_ids), tuple(message_ids), self.shelf.clock())

    # ------------------------------------------------------------------ reading

    def search(self, query: str, scope: Scope, k: int = 5) -> tuple[Hit, ...]:
        """Finds active facts of this branch, best first.

        Args:
            query: a question or words.
            scope: whose.
            k: at most that many.
        """
        self._own(scope)
        terms = content(query)
        with self.engine.begin() as connection:
            rows, found = self.shelf.matching(connection, scope, terms, k)
            total = self.shelf.count(connection, scope) if found else 0
        documents = {fact.number: words_of(fact) for fact in rows}
        scores = bm25(terms, documents, total)
        hits = [Hit(f, scores[f.number][0], scores[f.number][1]) for f in found]
        hits.sort(key=lambda hit: (-hit.score, -hit.fact.number))
        return tuple(hits[:k])

    def facts(self, scope: Scope, *, closed: bool = False, limit: int = 1000) -> tuple[Fact, ...]:
        """Lists the facts of this branch, oldest first.

        Args:
            scope: whose.
            closed: also those that no longer hold.
            limit: at most that many.
        """
        self._own(scope)
        with self.engine.begin() as connection:
            found = self.shelf.visible(connection, scope)
        return tuple(fact for fact in found if closed or fact.active)[:limit]

    def rivals(self, fact: Fact, scope: Scope) -> tuple[Fact, ...]:
        """Active facts of the same slot with another value: an open conflict."""
        self._own(scope)
        if not fact.slot:
            return ()
        with self.engine.begin() as connection:
            rows = self.shelf.slot(connection, scope, fact.slot)
        return tuple(f for f in rows if f.active and f.value.lower() != fact.value.lower())

    def status(self) -> dict[str, Any]:
        """What the store is and holds."""
        with self.engine.begin() as connection:
            count = self.shelf.count(connection)
        return {
            "database": self.engine.dialect.name,
            "tenant": self.tenant,
            "facts": count,
            "search": "keyword",
            "secrets": "kept" if self.keep_secrets else "redacted",
        }

    # ------------------------------------------------------------------ inside

    def _own(self, scope: Scope) -> None:
        if scope.tenant != self.tenant:
            raise FactStoreError(
                "a store serves its saver's tenant only",
                got=scope.tenant,
                remedy="Open a saver for that tenant.",
            )
