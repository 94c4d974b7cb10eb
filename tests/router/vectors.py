"""Stores with made-up vectors, for the tests of pgvector."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore, Scope
from deltamem_agents.router.facts import Fact

SERVER = "keyword and vectors, by pgvector"
MATRIX = "keyword and vectors, by a matrix"
QUESTIONS = ["what is my port?", "hound", "Which gate qh is it?", "nothing of the kind"]
Found = list[tuple[str, float, float]]


def open_store(saver: SQLAlchemySaver, size: int = 8, **more: Any) -> FactStore:
    return FactStore(saver, embeddings=DeterministicFakeEmbedding(size=size), **more)


def letters(number: int) -> str:
    return "q" + "".join("abcdefghij"[int(digit)] for digit in str(number))


def tell(store: FactStore, thread: str, facts: int = 40) -> Scope:
    scope = store.branch(thread)
    told = [f"My gate {letters(n)} is {1000 + n}." for n in range(facts)]
    store.record_all(
        [{"role": "user", "content": words, "id": f"{thread}-{n}"} for n, words in enumerate(told)],
        scope,
    )
    return scope


def named(store: FactStore, scope: Scope, value: str) -> Fact:
    return next(fact for fact in store.facts(scope) if fact.value == value)


def column(store: FactStore, where: str = "true") -> list[str | None]:
    with store.engine.connect() as connection:
        name = connection.dialect.identifier_preparer.format_table(store.access.tables.vectors)
        found = connection.exec_driver_sql(
            f"SELECT CAST(embedding AS text) FROM {name} WHERE {where} ORDER BY fact"
        )
        return list(found.scalars())


def run(store: FactStore, statement: str) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def hits(store: FactStore, scope: Scope, k: int = 5) -> Found:
    return [
        (hit.fact.value, round(hit.score, 9), hit.cosine or 0.0)
        for question in QUESTIONS
        for hit in store.search(question, scope, k)
    ]


def same(one: Found, other: Found) -> None:
    assert [hit[:2] for hit in one] == [hit[:2] for hit in other]
    assert [hit[2] for hit in one] == pytest.approx([hit[2] for hit in other], abs=1e-5)
