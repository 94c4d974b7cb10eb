"""Vectors on every database: lengths, numbers that are none, closed facts, what goes meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from sqlalchemy import delete, func, insert, select, update

from deltamem_agents.errors import ConfigError
from deltamem_agents.router import FactStore, Scope, pgvector
from deltamem_agents.router.embed import embedder_name
from tests.router.conftest import OpenSaver
from tests.router.vectors import named, open_store, tell

KEYS = pytest.mark.parametrize("key", [None, bytes(range(16))], ids=["plain", "encrypted"])


class By(Embeddings):
    """Gives what a function gives for each text."""

    def __init__(self, vector: Callable[[str], Any]) -> None:
        self.vector = vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vector(words) for words in texts]

    def embed_query(self, text: str) -> list[float]:
        return list(self.vector(text))


def cosines(store: FactStore, scope: Scope, k: int = 10) -> dict[str, float | None]:
    return {hit.fact.value: hit.cosine for hit in store.search("ask", scope, k)}


@KEYS
def test_an_embedder_of_another_length_stores_nothing(
    open_saver: OpenSaver, key: bytes | None
) -> None:
    saver = open_saver(encryption_key=key)
    store, longer = open_store(saver), open_store(saver, size=9)
    scope = tell(store, "a", 3)
    assert len(cosines(store, scope)) == 3
    store.record({"role": "user", "content": "My port is 4711.", "id": "m"}, scope)
    with pytest.raises(ConfigError, match="8 stored, 9 given"):
        longer.search("ask", scope)
    assert len(cosines(store, scope)) == 4


def test_stored_vectors_of_two_lengths_are_never_one_matrix(open_saver: OpenSaver) -> None:
    """Four and twelve numbers are two rows of eight."""
    saver = open_saver()
    store = open_store(saver)
    scope = tell(store, "a", 2)
    assert len(cosines(store, scope)) == 2
    table = store.access.tables.vectors
    with store.engine.begin() as connection:
        own = table.c.scope == scope.key
        numbers = connection.scalars(select(table.c.fact).where(own).order_by(table.c.fact)).all()
        for number, length in zip(numbers, (4, 12), strict=True):
            data = b"f" + np.ones(length, dtype="<f4").tobytes()
            connection.execute(update(table).where(table.c.fact == number).values(vector=data))
    again = open_store(saver)
    with pytest.raises(ConfigError, match="embedder's length"):
        again.search("ask", scope)


@pytest.mark.parametrize(
    "given",
    [
        [[1.0, 2.0], [1.0]],
        [[1.0, 2.0]],
        [],
        [[], []],
        [[1.0, 2.0], None],
        [1.0, 2.0],
        [["a"], ["b"]],
    ],
    ids=["ragged", "fewer", "none", "no numbers", "None", "flat", "words"],
)
def test_what_is_no_vector_is_refused_and_not_stored(open_saver: OpenSaver, given: Any) -> None:
    class Odd(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            result: list[list[float]] = given
            return result

    store = FactStore(open_saver(), embeddings=Odd(size=2))
    scope = tell(store, "a", 2)
    with pytest.raises(ConfigError, match="one vector a text"):
        store.search("ask", scope)
    table = store.access.tables.vectors
    with store.engine.connect() as connection:
        own = select(func.count()).where(table.c.scope == scope.key)
        assert connection.scalar(own) == 0


@KEYS
def test_numbers_that_are_none_are_zeros(open_saver: OpenSaver, key: bytes | None) -> None:
    def vector(text: str) -> list[float]:
        for name, number in (("qb:", np.nan), ("qc:", np.inf), ("qd:", 1e300)):
            if f"gate {name}" in text:
                return [1.0, number, 0.0]
        return [0.8, 0.6, 0.0] if "gate" in text else [1.0, 0.0, 0.0]

    store = FactStore(open_saver(encryption_key=key), embeddings=By(vector))
    scope = tell(store, "a", 6)
    found = cosines(store, scope)
    assert found == pytest.approx(
        {"1000": 0.8, "1004": 0.8, "1005": 0.8, "1001": 0.0, "1002": 0.0, "1003": 0.0}, abs=1e-6
    )
    assert list(found)[:3] == ["1000", "1004", "1005"]


@KEYS
def test_closed_facts_crowd_nobody_out(open_saver: OpenSaver, key: bytes | None) -> None:
    """Sixty values that no longer hold are nearer than the one that is asked for."""
    near = By(lambda text: [1.0, 0.0] if text == "ask" or "port" in text else [1.0, 0.5])
    store = FactStore(open_saver(encryption_key=key), embeddings=near)
    scope = store.branch("a")
    store.record_all([f"My port is {4000 + n}." for n in range(60)], scope)
    store.record("My dog is called Rex.", scope)
    assert set(cosines(store, scope, 5)) == {"4059", "Rex"}


def test_other_branches_crowd_nobody_out(open_saver: OpenSaver) -> None:
    near = By(lambda text: [1.0, 0.0] if text == "ask" or "port" in text else [1.0, 0.5])
    store = FactStore(open_saver(), embeddings=near)
    own = store.hear(["My dog is called Rex."], store.branch("a"))
    for number in range(60):
        other = Scope(store.tenant, "a", (f"head {number}",))
        store.hear([f"My port is {4000 + number}."], other)
    assert set(cosines(store, own, 5)) == {"Rex"}


def test_a_cached_matrix_is_not_taken_for_another_of_its_size(
    open_saver: OpenSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older number may come late, from a transaction that took long; another fact has gone."""
    store = open_store(open_saver())
    scope, table = tell(store, "a", 4), store.access.tables.vectors
    assert len(cosines(store, scope)) == 4
    assert store.vectors is not None
    monkeypatch.setattr(store.vectors, "fill", lambda *_: 0)
    first, late = (named(store, scope, value).number for value in ("1000", "1001"))
    with store.engine.begin() as connection:
        row = connection.execute(select(table).where(table.c.fact == late)).one()
        connection.execute(delete(table).where(table.c.fact == late))
    before = store.vectors.search(store.access.shelf, "ask", scope, 10)
    with store.engine.begin() as connection:
        connection.execute(delete(table).where(table.c.fact == first))
        connection.execute(insert(table).values(row._asdict()))
    after = store.vectors.search(store.access.shelf, "ask", scope, 10)
    assert (first in before, late in before) == (True, False)
    assert (first in after, late in after) == (False, True)


@pytest.mark.parametrize("forgetting", [False, True], ids=["deleted", "forgotten"])
def test_no_vector_outlives_what_goes_meanwhile(
    open_saver: OpenSaver, monkeypatch: pytest.MonkeyPatch, forgetting: bool
) -> None:
    saver = open_saver()
    store, other = open_store(saver), FactStore(saver)
    scope, table = tell(store, "a", 3), store.access.tables.vectors
    ids = [fact.fact_id for fact in store.facts(scope)]
    plainly = pgvector.insert_vectors

    def go() -> None:
        if forgetting:
            other.forget(scope, fact_ids=ids)
        else:
            saver.delete_thread("a")

    def late(*given: Any) -> None:
        going.start()
        going.join(0.5)  # where it must wait, it goes on afterwards
        plainly(*given)

    going = threading.Thread(target=go)
    monkeypatch.setattr(pgvector, "insert_vectors", late)
    store.search("ask", scope)
    going.join(60)
    assert store.facts(scope) == ()
    with store.engine.connect() as connection:
        own = select(func.count()).where(table.c.scope == scope.key)
        assert connection.scalar(own) == 0


class Named(Embeddings):
    """Keeps its model, and how many numbers it gives, as many embedders do."""

    def __init__(self, model: object, dimensions: int | None = None) -> None:
        self.model, self.dimensions = model, dimensions

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError


def test_an_embedder_has_the_same_name_in_each_process() -> None:
    loaded = [Named(object()), Named(object())]  # at two addresses
    assert embedder_name(loaded[0]) == embedder_name(loaded[1])
    assert embedder_name(Named("one")) != embedder_name(Named("two"))
    assert embedder_name(Named("one")) == embedder_name(Named("one"))


def test_a_model_asked_for_fewer_numbers_has_another_name() -> None:
    names = {embedder_name(Named("one", size)) for size in (None, 256, 512)}
    assert len(names) == 3
