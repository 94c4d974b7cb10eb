"""The exact store: facts verbatim, with where they came from, in the saver's own database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from sqlalchemy import Connection, inspect

from deltamem_agents.checkpoint.fact_schema import make_fact_schema
from deltamem_agents.checkpoint.migrations import lock
from deltamem_agents.errors import FactStoreError
from deltamem_agents.router.access import Access, Saver
from deltamem_agents.router.by_model import Extractor
from deltamem_agents.router.facts import Fact, ForgetReport, Hit, Scope
from deltamem_agents.router.forget import forget
from deltamem_agents.router.listening import Listener
from deltamem_agents.router.messages import Heard, Message
from deltamem_agents.router.outdated import renew
from deltamem_agents.router.rivals import rivals
from deltamem_agents.router.rows import lineage_of
from deltamem_agents.router.search import search, way
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import write
from deltamem_agents.router.vector import VectorIndex

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from deltamem_agents.router.documents import FactRetriever


class FactStore:
    """Facts of one tenant, beside its checkpoints.

    Every search and every write names a `Scope`; tenant and thread are compared as equalities.
    Where the saver encrypts, facts are encrypted too, nothing is indexed, and a scope's rows are
    decrypted and ranked in process.

    Args:
        saver: an opened `SQLAlchemySaver`.
        embeddings: adds vector search; any of LangChain's, such as `router.embed.MiniLM()`.
        keep_secrets: keep passwords, keys and card numbers instead of "[redacted]".
        read_assistant: also read facts from the assistant's messages; they never take the place
            of what the user or a tool said.
        extractor: reads more facts from each message, such as `by_model(chat_model)`; accepted
            only if the value stands in the message, letter by letter.
        clock: seconds since 1970, UTC.
    """

    def __init__(
        self,
        saver: Saver,
        *,
        embeddings: Embeddings | None = None,
        keep_secrets: bool = False,
        read_assistant: bool = False,
        extractor: Extractor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.access = Access(saver, clock)
        self.engine, self.tenant = saver.engine, saver.tenant
        self.listener = Listener(keep_secrets, read_assistant, extractor)
        self.vectors = None if embeddings is None else VectorIndex(embeddings)
        self.access.run(lambda shelf: write(shelf, lambda c: self._prepare(c, shelf)))
        if self.vectors is not None:
            self.access.run(self.vectors.prepare)

    def _prepare(self, connection: Connection, shelf: Shelf) -> None:
        tables = shelf.tables
        if not inspect(connection).has_table(tables.outdated.name, schema=tables.schema):
            with lock(connection):
                make_fact_schema(connection, tables.schema, tables.prefix)
        renew(connection, shelf)

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

        def run(shelf: Shelf) -> tuple[Fact, ...]:
            told, drafts = self.listener.read(shelf, given)
            return write(shelf, lambda c: shelf.record(c, scope, told, drafts)) if drafts else ()

        given = list(messages)
        return self.access.run(run)

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

        def run(shelf: Shelf) -> Scope:
            told, drafts = self.listener.read(shelf, given)
            return write(shelf, lambda c: shelf.hear(c, scope, told, drafts)) if drafts else scope

        given = list(messages)
        return self.access.run(run)

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
        line = self.access.read(lambda shelf, c: lineage_of(c, shelf.tables, scope, head))
        return replace(scope, lineage=line)

    def add_documents(
        self, documents: Iterable[Document], scope: Scope, *, facts: bool = True
    ) -> tuple[Fact, ...]:
        """Adds documents and the facts that they state, as said by a tool.

        A document (same text, same id or `source`) is added once. Facts from documents never
        close one another.

        Args:
            documents: LangChain documents, already cut to the size that is to be found; their
                metadata come back with citations.
            scope: whose.
            facts: also take the facts that the documents state, each on its own.
        """
        from deltamem_agents.router.documents import drafts_of

        self._own(scope)

        def run(shelf: Shelf) -> tuple[Fact, ...]:
            told: dict[str, Heard] = {}
            more: dict[str, dict[str, Any]] = {}
            for document in given:
                name = document.id or str(document.metadata.get("source", ""))
                one = Heard("tool", document.page_content, name)
                digest = shelf.keyed(one.digest)
                told[digest], more[digest] = one, dict(document.metadata)
            hide = not self.listener.keep_secrets
            drafts = {d: drafts_of(o.text, keep_secrets=not hide) for d, o in told.items()}
            if not facts:
                drafts = {digest: found[:1] for digest, found in drafts.items()}
            return write(shelf, lambda c: shelf.record(c, scope, told, drafts, more))

        given = list(documents)
        return self.access.run(run)

    def close(self, fact_id: str, scope: Scope) -> Fact:
        """Says that a fact no longer holds, from the scope's head on, with nothing in its place.

        Raises:
            FactStoreError: there is no such fact in the scope, or it is closed already.
        """
        self._own(scope)
        return self.access.run(
            lambda shelf: write(shelf, lambda c: shelf.close_outright(c, scope, fact_id))
        )

    def revise(self, fact_id: str, statement: Message, scope: Scope) -> Fact:
        """Closes a fact and records the statement that takes its place, in one transaction.

        Args:
            fact_id: of an active fact in the scope.
            statement: tells the new value of the same thing ("my port is 81").
            scope: whose.

        Returns:
            The new fact.

        Raises:
            FactStoreError: no such active fact, or the statement tells no value of it for sure.
        """
        self._own(scope)

        def run(shelf: Shelf) -> Fact:
            told, drafts = self.listener.read(shelf, [statement])
            return write(shelf, lambda c: shelf.revise(c, scope, fact_id, told, drafts))

        return self.access.run(run)

    def forget(
        self, scope: Scope, *, fact_ids: Sequence[str] = (), message_ids: Sequence[str] = ()
    ) -> ForgetReport:
        """Deletes facts in every branch of the thread and purges index and file of them.

        A content-free tombstone stays, by which the same messages are not recorded again. The
        memory inside the model is rebuilt by `ThreadMemory.forget`, which calls this.

        Args:
            scope: whose; its lineage plays no part.
            fact_ids: facts to delete.
            message_ids: all facts of these messages.

        Raises:
            FactStoreError: something of it was found again afterwards.
        """
        self._own(scope)
        if self.vectors is not None:
            self.vectors.drop(scope)
        return self.access.run(lambda s: forget(s, scope, tuple(fact_ids), tuple(message_ids)))

    # ------------------------------------------------------------------ reading

    def search(
        self, query: str, scope: Scope, k: int = 5, *, complete: bool = True
    ) -> tuple[Hit, ...]:
        """Finds active facts of this branch, best first.

        Args:
            query: a question or words.
            scope: whose.
            k: at most that many.
            complete: where fewer than k facts hold all of the words, fill up with facts that hold
                some. A router that looks for one fact does without, which is faster: facts whose
                names stand in the question are then found by them, with no search of words.
        """
        self._own(scope)
        return self.access.run(
            lambda shelf: search(shelf, self.vectors, query, scope, k, complete=complete)
        )

    def facts(self, scope: Scope, *, closed: bool = False, limit: int = 1000) -> tuple[Fact, ...]:
        """Lists the facts of this branch, oldest first.

        Args:
            scope: whose.
            closed: also those that no longer hold.
            limit: at most that many.
        """
        self._own(scope)
        found = self.access.read(lambda shelf, c: shelf.visible(c, scope))
        return tuple(fact for fact in found if closed or fact.active)[:limit]

    def rivals(self, facts: Iterable[Fact], scope: Scope) -> tuple[Fact, ...]:
        """Active facts that tell other values of the same things, in one query: open conflicts."""
        self._own(scope)
        told = list(facts)
        return self.access.read(lambda shelf, c: rivals(shelf, c, scope, told))

    def as_retriever(self, scope: Scope, k: int = 5) -> FactRetriever:
        """The store as LangChain's retriever, for one scope."""
        from deltamem_agents.router.documents import FactRetriever

        self._own(scope)
        return FactRetriever(store=self, scope=scope, k=k)

    def status(self) -> dict[str, Any]:
        """What the store is and holds."""
        return {
            "database": self.engine.dialect.name,
            "tenant": self.tenant,
            "facts": self.access.read(lambda shelf, c: shelf.count(c)),
            "search": self.access.read(lambda shelf, c: way(shelf, c, self.vectors)),
            "encrypted": self.access.shelf.encrypted,
            "secrets": "kept" if self.listener.keep_secrets else "redacted",
        }

    # ------------------------------------------------------------------ inside

    def _own(self, scope: Scope) -> None:
        if scope.tenant != self.tenant:
            raise FactStoreError(
                "a store serves its saver's tenant only",
                got=scope.tenant,
                remedy="Open a saver for that tenant.",
            )
