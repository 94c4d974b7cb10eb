"""Documents: added to the store, or found by a retriever or vector store of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict

from deltamem_agents.errors import ConfigError
from deltamem_agents.router.analyze import content
from deltamem_agents.router.extract import extract
from deltamem_agents.router.facts import Draft, Fact, ForgetReport, Hit, Scope
from deltamem_agents.router.keyword import bm25, words_of
from deltamem_agents.router.messages import Heard, Message
from deltamem_agents.router.store import FactStore


def drafts_of(text: str, *, keep_secrets: bool = False) -> tuple[Draft, ...]:
    """A document's own draft (its whole text) and the facts that it states; none closes another."""
    stated = [d for d in extract(text, keep_secrets=keep_secrets) if d.kind != "mention"]
    whole = Draft("document", "", "", text, 0, len(text), "")
    return (whole, *(replace(draft, revisable=False) for draft in stated))


def json_types(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """A document's metadata as a reply's metadata may hold them: dates and the like as text."""
    plain: dict[str, Any] = json.loads(json.dumps(metadata, default=str, skipkeys=True))
    return plain


class RetrieverStore:
    """A `BaseRetriever` or `VectorStore` of the user's own, in the place of a `FactStore`.

    Nothing is recorded: what it finds is read as documents, and the facts that they state are
    answered verbatim with the document as their source: a citation has its id or `source`, and
    its metadata, such as the page. Whose documents they are is the
    retriever's affair; `search_kwargs` hands it the scope.

    Args:
        source: the retriever or vector store.
        tenant: as in `Scope`.
        search_kwargs: from the scope to the source's keyword arguments, such as a filter.
    """

    def __init__(
        self,
        source: BaseRetriever | VectorStore,
        *,
        tenant: str = "default",
        search_kwargs: Callable[[Scope], dict[str, Any]] | None = None,
    ) -> None:
        if not isinstance(source, BaseRetriever | VectorStore):
            raise ConfigError(
                "a source of documents is a BaseRetriever or a VectorStore",
                got=type(source).__name__,
                remedy="Pass retriever, or a vector store that LangChain knows.",
            )
        self.source, self.tenant = source, tenant
        self._search_kwargs = search_kwargs

    def search(
        self, query: str, scope: Scope, k: int = 5, *, complete: bool = True
    ) -> tuple[Hit, ...]:
        """The facts that the found documents state, and the documents themselves."""
        more = self._search_kwargs(scope) if self._search_kwargs is not None else {}
        if isinstance(self.source, VectorStore):
            found = self.source.similarity_search(query, k=k, **more)
        else:
            found = self.source.invoke(query, **more)[:k]
        facts = [fact for document in found for fact in _facts(document)]
        words = {number: words_of(fact) for number, fact in enumerate(facts)}
        scores = bm25(content(query), words, len(facts))
        hits = [
            Hit(fact, scores[number][0], scores[number][1], None, scores[number][0])
            for number, fact in enumerate(facts)
        ]
        return tuple(sorted(hits, key=lambda hit: -hit.score)[:k])

    def rivals(self, facts: Iterable[Fact], scope: Scope) -> tuple[Fact, ...]:
        """Documents are not adjudicated."""
        return ()

    def branch(self, thread: str, head: str = "", checkpoint: str = "") -> Scope:
        """The scope of a thread; documents have no branches."""
        return Scope(self.tenant, thread, (head,) if head else (), checkpoint)

    def hear(self, messages: Iterable[Message], scope: Scope) -> Scope:
        """Records nothing."""
        return scope

    def forget(
        self,
        scope: Scope,
        *,
        fact_ids: Sequence[str] = (),
        message_ids: Sequence[str] = (),
    ) -> ForgetReport:
        """Deletes nothing: the documents are the user's."""
        return ForgetReport((), ())

    def status(self) -> dict[str, Any]:
        """What it is."""
        return {"source": type(self.source).__name__, "tenant": self.tenant, "search": "external"}


def _facts(document: Document) -> list[Fact]:
    text = document.page_content
    name = document.id or str(document.metadata.get("source", ""))
    one = Heard("tool", text, name)
    return [
        Fact(
            fact_id=f"{one.digest[:24]}{ordinal:08x}",
            kind=draft.kind,
            subject=draft.subject,
            attribute=draft.attribute,
            value=draft.value,
            start=draft.start,
            end=draft.end,
            quote=draft.quote,
            source_message_id=name,
            branch="",
            asserted_by="tool",
            recorded_at="",
            slot=f"{draft.subject}\0{draft.attribute}" if draft.revisable else "",
            metadata=json_types(document.metadata),
            document=True,
        )
        for ordinal, draft in enumerate((drafts_of(text)[0], *extract(text)))
        if draft.kind != "mention"
    ]


class FactRetriever(BaseRetriever):
    """A `FactStore` as LangChain's retriever, for one scope.

    `metadata["disputed"]` tells of each document whether another active one stands against it.

    Attributes:
        store: the store.
        scope: whose facts.
        k: at most that many.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: FactStore
    scope: Scope
    k: int = 5

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        most = self.k if k is None else k
        hits = self.store.search(query, self.scope, most)
        rivals = self.store.rivals([hit.fact for hit in hits], self.scope)
        shown: dict[str, Hit] = {}
        for hit in hits:  # what stands against a fact comes right behind it
            against = [replace(hit, fact=one) for one in rivals if one.disputes(hit.fact)]
            for one in (hit, *against):
                shown.setdefault(one.fact.fact_id, one)
        slots = {one.slot for one in rivals}
        return [_document(hit, hit.fact.slot in slots) for hit in list(shown.values())[:most]]


def _document(hit: Hit, disputed: bool) -> Document:
    fact = hit.fact
    metadata: Mapping[str, Any] = {
        **fact.metadata,
        **fact.citation.as_dict(),
        "kind": fact.kind,
        "subject": fact.subject,
        "attribute": fact.attribute,
        "score": hit.score,
        "disputed": disputed,
    }
    return Document(page_content=fact.quote or fact.value, id=fact.fact_id, metadata=dict(metadata))
