"""Vectors, documents, LangChain's retriever contract, retrievers of the user's own."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ConfigError
from deltamem_agents.router import FactStore, HybridRouter, Scope
from deltamem_agents.router.analyze import tokens
from deltamem_agents.router.documents import FactRetriever, RetrieverStore
from deltamem_agents.router.embed import MiniLM
from deltamem_agents.router.vector import fuse


class Axes(Embeddings):
    """One axis for each of a few meanings, so that cosines are known in advance."""

    name = "axes"
    meanings = (("dwell", "live", "oslo"), ("port", "8080"), ("rex", "dog", "hound"))

    def __init__(self) -> None:
        self.embedded = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded += len(texts)
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        words = set(tokens(text))
        return [0.01 + float(any(set(tokens(w)) & words for w in axis)) for axis in self.meanings]


TOLD = ["I live in Oslo.", "The billing service runs on port 8080.", "My dog's name is Rex."]


def scope_of(store: FactStore) -> Scope:
    return Scope(store.tenant, "alice")


def test_vectors_find_what_keywords_miss(open_saver: Any) -> None:
    saver = open_saver()
    plain, hybrid = FactStore(saver), FactStore(saver, embeddings=Axes())
    for number, text in enumerate(TOLD):
        plain.record({"role": "user", "content": text, "id": f"m{number}"}, scope_of(plain))
    assert plain.search("who is the hound", scope_of(plain)) == ()
    best = hybrid.search("who is the hound", scope_of(plain))[0]
    assert best.fact.value == "Rex"
    assert best.cosine == pytest.approx(1.0, abs=1e-3)
    assert plain.status()["search"] == "keyword"
    assert hybrid.status()["search"].startswith("keyword and vectors, by ")


@pytest.mark.parametrize("key", [None, b"0123456789abcdef"], ids=["plain", "encrypted"])
def test_vectors_follow_the_rows(open_saver: Any, key: bytes | None) -> None:
    saver, axes = open_saver(encryption_key=key), Axes()
    store, other = FactStore(saver, embeddings=axes), FactStore(saver, embeddings=axes)
    scope = scope_of(store)
    for number, text in enumerate(TOLD):
        store.record({"role": "user", "content": text, "id": f"m{number}"}, scope)
    assert {h.fact.value for h in store.search("hound", scope)} == {"Oslo", "8080", "Rex"}
    assert {h.fact.value for h in other.search("hound", scope)} == {"Oslo", "8080", "Rex"}
    assert axes.embedded == 3  # each fact once, whichever process asks first
    other.forget(scope, message_ids=["m2"])
    assert {h.fact.value for h in store.search("hound", scope)} == {"Oslo", "8080"}
    store.record({"role": "user", "content": "I live in Rome", "id": "m9"}, scope)
    assert {h.fact.value for h in other.search("dwell", scope)} == {"Rome", "8080"}


def test_a_second_embedder_does_not_mix_with_the_first(open_saver: Any) -> None:
    class Shorter(Axes):
        name = "axes"
        meanings = Axes.meanings[:2]

    saver = open_saver()
    store = FactStore(saver, embeddings=Axes())
    store.record({"role": "user", "content": TOLD[0], "id": "m1"}, scope_of(store))
    assert len(store.search("dwell", scope_of(store))) == 1
    second = FactStore(saver, embeddings=Shorter())  # another class: vectors of its own
    assert len(second.search("dwell", scope_of(store))) == 1
    confused = FactStore(saver, embeddings=Shorter())
    assert confused.vectors is not None
    assert store.vectors is not None
    confused.vectors.name = store.vectors.name
    with pytest.raises(ConfigError, match="embedder's length"):
        confused.search("dwell", scope_of(store))


def test_reciprocal_rank_fusion_is_the_published_formula() -> None:
    fused = fuse([[1, 2, 3], [3, 1]])
    assert fused == pytest.approx({1: 1 / 61 + 1 / 62, 2: 1 / 62, 3: 1 / 63 + 1 / 61})


def test_minilm_is_the_sentence_transformer() -> None:
    embedder = MiniLM()
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "A cheetah is running."]
    first, second, third = np.asarray(embedder.embed_documents(texts))
    assert first.shape == (384,)
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    assert first @ second == pytest.approx(0.7553, abs=2e-3)  # as its model card's example
    assert abs(first @ third) < 0.2
    np.testing.assert_allclose(embedder.embed_query(texts[0]), first, atol=1e-5)


def test_documents_are_found_and_their_facts_answered(open_saver: Any) -> None:
    store = FactStore(open_saver())
    scope = scope_of(store)
    page = Document(
        "Runbook. The search service's port is 9200. Restart it on Sundays.",
        metadata={"source": "runbook.md"},
    )
    assert len(store.add_documents([page, page], scope)) == 2
    assert store.add_documents([page], scope) == ()
    decision = HybridRouter(store).probe("What is the search service's port?", scope)
    assert (decision.route, decision.value) == ("exact", "9200")
    assert decision.citations[0].source_message_id == "runbook.md"
    start, end = decision.citations[0].span
    assert page.page_content[start:end] == "9200"


HANDBOOK = {"source": "handbook.pdf", "page": 3, "seen": date(2026, 5, 4)}


@pytest.mark.parametrize("kind", ["fact store", "vector store", "retriever"])
def test_a_citation_names_the_document_and_carries_its_metadata(open_saver: Any, kind: str) -> None:
    pages = [
        Document("The search service's port is 9200.", id="handbook-3", metadata=HANDBOOK),
        Document("The login service's port is 9300.", metadata={"source": "archive.md"}),
        Document("The billing service's port is 9400.", id="cellar"),
    ]
    if kind == "fact store":
        store: Any = FactStore(open_saver())
        store.add_documents(pages, scope_of(store))
        router = HybridRouter(store)
    elif kind == "vector store":
        vectors = InMemoryVectorStore(Axes())
        given = vectors.add_documents(pages)
        assert given[0] == "handbook-3"
        router = HybridRouter(vectors)
    else:
        router = HybridRouter(Shelf(documents=pages))
    scope = router.store.branch("alice")
    decision = router.probe("What is the search service's port?", scope)
    assert (decision.route, decision.value) == ("exact", "9200")
    cited = decision.as_dict()["citations"][0]
    assert (cited["source_message_id"], cited["source"]) == ("handbook-3", "handbook.pdf")
    assert cited["metadata"] == {"source": "handbook.pdf", "page": 3, "seen": "2026-05-04"}
    assert json.loads(json.dumps(cited)) == cited
    start, end = cited["span"]
    assert pages[0].page_content[start:end] == "9200"
    shown = f"document handbook.pdf, page 3, {start}:{end}]"
    assert str(router.answer(decision)).endswith(shown)
    assert "(document handbook.pdf, " in router.as_data(decision)
    for question, source in (
        ("What is the login service's port?", "archive.md"),
        ("What is the billing service's port?", "cellar"),
    ):
        (cite,) = router.probe(question, scope).citations
        assert cite.source == source
        assert f"document {source}, {cite.span[0]}:" in str(cite)


def test_a_citation_of_a_message_has_no_document(open_saver: Any) -> None:
    store = FactStore(open_saver())
    told = {"role": "tool", "content": "The search service's port is 9200.", "id": "m1"}
    store.record(told, scope_of(store))
    asked = HybridRouter(store).probe("What is the search service's port?", scope_of(store))
    (cite,) = asked.citations
    assert (cite.source, cite.metadata, cite.source_message_id) == ("", {}, "m1")
    assert "tool message m1, " in str(cite)


class Shelf(BaseRetriever):
    """A retriever of the user's own."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        wanted = set(tokens(query))
        return [d for d in self.documents if wanted & set(tokens(d.page_content))]


PAGES = [
    Document("The search service's port is 9200.", id="a"),
    Document("The login service's port is 9300.", id="b"),
    Document("Bread is baked at night.", id="c"),
]


@pytest.mark.parametrize("kind", ["retriever", "vector store"])
def test_a_retriever_of_the_users_own_takes_the_stores_place(kind: str) -> None:
    if kind == "retriever":
        router = HybridRouter(Shelf(documents=PAGES))
    else:
        vectors = InMemoryVectorStore(Axes())
        vectors.add_documents(PAGES)
        router = HybridRouter(RetrieverStore(vectors))
    scope = router.store.branch("alice")
    assert router.store.hear(["my port is 80"], scope) == scope
    decision = router.probe("What is the login service's port?", scope)
    assert (decision.route, decision.value) == ("exact", "9300")
    assert decision.citations[0].source_message_id == "b"
    assert router.probe("What is the audit service's port?", scope).value is None


class TestStandardRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _prepare(self, tmp_path: Path) -> Any:
        with SQLAlchemySaver(tmp_path / "facts.db") as saver:
            self.store = FactStore(saver)
            for number in range(6):
                text = f"my code number {number} is {1000 + number}"
                self.store.record({"role": "user", "content": text}, scope_of(self.store))
            yield

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return FactRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store, "scope": scope_of(self.store)}

    @property
    def retriever_query_example(self) -> str:
        return "which code number"

    def test_as_retriever_cites(self) -> None:
        found = self.store.as_retriever(scope_of(self.store), k=1).invoke("code number 4")
        assert [d.metadata["value"] for d in found] == ["1004"]
        assert found[0].page_content == "my code number 4 is 1004"
        assert found[0].metadata["span"] == [20, 24]
