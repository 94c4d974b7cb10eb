"""Hybrid search: keyword and vector rankings of one branch's active facts, fused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from deltamem_agents.router.analyze import content, names_self
from deltamem_agents.router.facts import Fact, Hit, Scope
from deltamem_agents.router.keyword import COMMON, bm25
from deltamem_agents.router.matching import Matches, matches_of, matching, named
from deltamem_agents.router.pgvector import schema_of
from deltamem_agents.router.reading import SURE
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import read
from deltamem_agents.router.vector import Asked, VectorIndex, fuse

COUNTED = 2000  # facts of a scope; more would hardly change the weight of a word
DEPTH = 8  # a ranking is read to k times this depth before the two are fused


def search(
    shelf: Shelf,
    vectors: VectorIndex | None,
    query: str,
    scope: Scope,
    k: int,
    *,
    complete: bool = True,
) -> tuple[Hit, ...]:
    """The k best facts for a query.

    Args:
        shelf: of the store.
        vectors: the embedder's index; None for keyword search alone.
        query: a question or words.
        scope: whose, and which branch.
        k: at most that many.
        complete: fill up with facts that hold some of the words where fewer than k hold all.
    """
    hits = read(shelf, lambda c: _by_keyword(c, shelf, query, scope, k, complete))
    if vectors is None:
        return tuple(found.hit() for found in hits[:k])
    known = {found.number: found for found in hits}
    cosines, near, ranking = _nearest(shelf, vectors.ask(shelf, query, scope), scope, k, known)
    fused = fuse([[found.number for found in hits], ranking])
    ranked = sorted(fused, key=lambda number: (-fused[number], -number))[:k]
    best = [known.get(n) or _Found(n, 0.0, 0.0, near.__getitem__) for n in ranked]
    return tuple(
        replace(f.hit(), score=fused[f.number], cosine=cosines.get(f.number)) for f in best
    )


def _nearest(
    shelf: Shelf, ask: Asked, scope: Scope, k: int, known: Collection[int]
) -> tuple[dict[int, float], dict[int, Fact], list[int]]:
    """Cosines, the active facts among the nearest, and the ranking by number.

    What is nearest may be closed, or of other branches: then it is looked for further away.
    """
    depth = k * DEPTH
    while True:
        cosines = ask(depth, list(known))
        nearest = sorted(cosines, key=lambda number: -cosines[number])[:depth]
        near = read(shelf, lambda c: _active(c, shelf, scope, nearest))  # noqa: B023
        ranking = [number for number in nearest if number in near or number in known]
        if len(ranking) >= k or len(nearest) < depth:
            return cosines, near, ranking
        depth *= DEPTH


def way(shelf: Shelf, connection: Connection, vectors: VectorIndex | None) -> str:
    """By what `search` finds facts, in words."""
    if vectors is None:
        return "keyword"
    by = "a matrix" if schema_of(connection, shelf) is None else "pgvector"
    return f"keyword and vectors, by {by}"


@dataclass(frozen=True)
class _Found:
    number: int
    bm25: float
    share: float
    open: Callable[[int], Fact]

    def hit(self) -> Hit:
        return Hit(self.open(self.number), self.bm25, self.share, None, self.bm25)


def _by_keyword(
    connection: Connection, shelf: Shelf, query: str, scope: Scope, k: int, complete: bool
) -> list[_Found]:
    asked = [] if complete else named(shelf, connection, scope, query)
    sure = [fact for fact in asked if fact.sure >= SURE]
    # The words of a fact that was found by its name need not be counted.
    hits = _scored(matches_of(query, sure or asked), COMMON)
    if not sure:  # the value may have been stored by itself
        own, terms = names_self(query), content(query)
        found = matching(shelf, connection, scope, terms, k, own=own, complete=complete)
        total = shelf.count(connection, scope, COUNTED) if found.active else 0
        known = {hit.number for hit in hits}
        hits += [hit for hit in _scored(found, total) if hit.number not in known]
    return sorted(hits, key=lambda hit: (-hit.bm25, -hit.number))


def _scored(found: Matches, total: int) -> list[_Found]:
    scores = bm25(found.terms, found.words, total, found.counted)
    return [_Found(number, *scores[number], found.fact) for number in found.active]


def _active(
    connection: Connection, shelf: Shelf, scope: Scope, numbers: Sequence[int]
) -> dict[int, Fact]:
    column = shelf.tables.facts.c.number
    found = shelf.visible(connection, scope, column.in_(list(numbers)))
    return {fact.number: fact for fact in found if fact.active}
