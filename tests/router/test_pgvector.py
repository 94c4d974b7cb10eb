"""pgvector gives the results of the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ConfigError
from deltamem_agents.router import FactStore, pgvector
from tests.router.conftest import make_extension
from tests.router.vectors import (
    QUESTIONS,
    SERVER,
    column,
    hits,
    named,
    open_store,
    same,
    tell,
)

STRANGE = 'my "odd" 50%s :schema'


@pytest.mark.parametrize(
    ("schema", "options"),
    [
        ("public", {}),
        ("public", {"schema": "agents", "prefix": "memory_"}),
        (STRANGE, {"prefix": "memory_"}),
    ],
    ids=["plain names", "schema and prefix", "extension elsewhere"],
)
def test_the_server_finds_what_the_matrix_finds(
    pgvector_url: str, schema: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_extension(pgvector_url, schema)
    with SQLAlchemySaver(pgvector_url, **options) as saver:
        store = open_store(saver, size=64)
        assert store.status()["search"] == SERVER
        scope, other = tell(store, "a", 120), tell(store, "b", 3)
        by_server = [hits(store, scope, k) for k in (1, 5, 20)]
        assert len(hits(store, other, 20)) == 3 * len(QUESTIONS)
        assert store.vectors is not None
        assert not store.vectors._cache  # no matrix was read
        monkeypatch.setattr(pgvector, "embedding_schema", lambda *_: None)
        by_matrix = [hits(store, scope, k) for k in (1, 5, 20)]
        assert store.vectors._cache
        for one, two in zip(by_server, by_matrix, strict=True):
            same(one, two)
        assert len(by_server[2]) == 20 * len(QUESTIONS)
        assert None not in column(store)


def test_facts_that_only_words_find_have_their_cosine(pgvector_url: str) -> None:
    """The nearest forty do not hold every fact; a fact found by its words is told its own."""
    make_extension(pgvector_url)
    with SQLAlchemySaver(pgvector_url) as saver:
        store = open_store(saver, size=64)
        scope = tell(store, "a", 60)
        assert store.vectors is not None
        shelf = store.access.shelf
        numbers = [fact.number for fact in store.facts(scope)]
        alone = store.vectors.search(shelf, "qh", scope, 8)
        assert len(alone) == 8
        far = [number for number in numbers if number not in alone]
        more = store.vectors.search(shelf, "qh", scope, 8, far)
        assert sorted(more) == numbers
        assert max(more[number] for number in far) <= min(alone.values())
        cosines = {hit.fact.value: hit.cosine for hit in store.search("qh", scope, 2)}
        assert cosines["1007"] == pytest.approx(more[named(store, scope, "1007").number], abs=1e-9)


def test_vectors_of_another_length_are_refused_as_by_the_matrix(
    pgvector_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_extension(pgvector_url)
    with SQLAlchemySaver(pgvector_url) as saver:
        store, longer = open_store(saver), open_store(saver, size=9)
        scope = tell(store, "a")
        assert store.search("gate qh", scope)
        messages = []
        for _ in range(2):
            with pytest.raises(ConfigError, match="embedder's length") as caught:
                longer.search("gate qh", scope)
            messages.append(str(caught.value))
            monkeypatch.setattr(pgvector, "embedding_schema", lambda *_: None)
        assert messages[0] == messages[1]
        assert "8 stored, 9 asked" in messages[0]


class Wild(Embeddings):
    """Gives what no embedder should: zeros, numbers that are none, more than pgvector takes."""

    def __init__(self, length: int) -> None:
        self.length = length

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(words) for words in texts]

    def embed_query(self, text: str) -> list[float]:
        vector = np.zeros(self.length)
        if "gate qb:" in text or text == "ask":
            vector[0] = 2.0
        elif "gate qc:" in text:
            vector[:] = np.nan
        return list(vector.tolist())


@pytest.mark.parametrize("length", [4, 16_000, 16_001])
def test_odd_vectors_are_no_error(pgvector_url: str, length: int) -> None:
    make_extension(pgvector_url)
    with SQLAlchemySaver(pgvector_url) as saver:
        store = FactStore(saver, embeddings=Wild(length))
        scope = tell(store, "a", 4)
        assert store.vectors is not None
        with np.errstate(invalid="ignore"):
            found = store.vectors.search(store.access.shelf, "ask", scope, 10)
        values = {fact.number: fact.value for fact in store.facts(scope)}
        cosines = {values[number]: cosine for number, cosine in found.items()}
        assert sorted(cosines) == ["1000", "1001", "1002", "1003"]
        assert cosines["1001"] == pytest.approx(1.0, abs=1e-5)
        assert cosines["1000"] == cosines["1003"] == 0.0
        assert column(store).count(None) == (0 if length <= 16_000 else 4)
