"""Hybrid search: keyword and vector rankings of one branch's active facts, fused."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from deltamem_agents.router.analyze import content
from deltamem_agents.router.facts import Fact, Hit, Scope
from deltamem_agents.router.keyword import bm25, words_of
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import read
from deltamem_agents.router.vector import VectorIndex, fuse

DEPTH = 8  # a ranking is read to k times this depth before the two are fused


def search(
    engine: Engine, shelf: Shelf, vectors: VectorIndex | None, query: str, scope: Scope, k: int
) -> tuple[Hit, ...]:
    """The k best facts for a query.

    Args:
        engine: of the store.
        shelf: of the store.
        vectors: the embedder's index; None for keyword search alone.
        query: a question or words.
        scope: whose, and which branch.
        k: at most that many.
    """
    terms = content(query)
    hits = read(engine, lambda connection: _by_keyword(connection, shelf, terms, scope, k))
    if vectors is None:
        return tuple(hits[:k])
    cosines = vectors.search(query, scope)
    nearest = sorted(cosines, key=lambda number: -cosines[number])[: k * DEPTH]
    found = read(engine, lambda connection: _active(connection, shelf, scope, nearest))
    known = {hit.fact.number: hit for hit in hits}
    near = [number for number in nearest if number in found or number in known]
    fused = fuse([[hit.fact.number for hit in hits], near])
    ranked = sorted(fused, key=lambda number: (-fused[number], -number))[:k]
    return tuple(
        _hit(number, known.get(number), found, fused[number], cosines.get(number))
        for number in ranked
    )


def _hit(
    number: int, known: Hit | None, found: dict[int, Fact], score: float, cosine: float | None
) -> Hit:
    if known is None:
        return Hit(found[number], score, 0.0, cosine)
    return Hit(known.fact, score, known.keyword, cosine, known.bm25)


def _by_keyword(
    connection: Connection, shelf: Shelf, terms: Sequence[str], scope: Scope, k: int
) -> list[Hit]:
    rows, active = shelf.matching(connection, scope, terms, k)
    if not active:
        return []
    total = shelf.count(connection, scope)
    scores = bm25(terms, {fact.number: words_of(fact) for fact in rows}, total)
    hits = [
        Hit(fact, score, share, None, score)
        for fact in active
        for score, share in [scores[fact.number]]
    ]
    return sorted(hits, key=lambda hit: (-hit.score, -hit.fact.number))


def _active(
    connection: Connection, shelf: Shelf, scope: Scope, numbers: Sequence[int]
) -> dict[int, Fact]:
    column = shelf.tables.facts.c.number
    found = shelf.visible(connection, scope, column.in_(list(numbers)))
    return {fact.number: fact for fact in found if fact.active}
