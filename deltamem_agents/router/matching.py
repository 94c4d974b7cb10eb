"""Which facts of a branch hold the words of a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row

from deltamem_agents.checkpoint.fact_tables import unscoped
from deltamem_agents.router.analyze import content, opaque
from deltamem_agents.router.asked import names, slots_in
from deltamem_agents.router.facts import Fact, Scope
from deltamem_agents.router.keyword import COMMON, SELF_WORD, candidates, counts, words_of
from deltamem_agents.router.rows import closed_by, slot_named, visible_in
from deltamem_agents.router.shelf import Shelf


@dataclass(frozen=True)
class Matches:
    """What holds a word of the question.

    Attributes:
        terms: the question's words, as they stand in `words`.
        words: of each matching fact of the scope, by number.
        active: numbers of those that hold in this branch.
        fact: opens one of them.
        counted: in how many facts of the scope a word stands, where that was counted.
    """

    terms: Sequence[str]
    words: Mapping[int, Sequence[str]]
    active: Sequence[int]
    fact: Callable[[int], Fact]
    counted: Mapping[str, int] = field(default_factory=dict)


def named(shelf: Shelf, connection: Connection, scope: Scope, query: str) -> list[Fact]:
    """The facts whose names stand in a question, found by their slots; mentions, too.

    Args:
        shelf: whose tables.
        connection: inside the operation's transaction.
        scope: whose, and which branch.
        query: the question; "my port and Anna's gate" names two facts.
    """
    keys = {shelf.keyed(slot_named(*pair)) for pair in slots_in(query)}
    if not keys:
        return []
    held = shelf.visible(connection, scope, shelf.tables.facts.c.slot.in_(sorted(keys)))
    return [fact for fact in held if fact.active and names(query, fact) > 0.5]


def matches_of(query: str, named: Sequence[Fact]) -> Matches:
    """Facts that were found by their names, as if their words had found them."""
    facts = {fact.number: fact for fact in named}
    words = {number: words_of(fact) for number, fact in facts.items()}
    return Matches(content(query), words, list(facts), facts.__getitem__)


def matching(
    shelf: Shelf,
    connection: Connection,
    scope: Scope,
    terms: Sequence[str],
    k: int,
    *,
    own: bool,
    complete: bool,
) -> Matches:
    """The facts of this branch that hold the terms, by their words.

    Facts that hold all of them, if there are such; else those that hold one. Words that stand
    in very many facts are then looked for only where no rarer one is at hand.

    Args:
        shelf: whose tables.
        connection: inside the operation's transaction.
        scope: whose, and which branch.
        terms: the question's words.
        k: how many are wanted.
        own: the question may be about the user.
        complete: fill up to k with facts that hold some of the words.
    """
    if shelf.encrypted:
        return _matching_sealed(shelf, connection, scope, terms)
    limit, words = max(64, 8 * k), [opaque(term) for term in terms]
    rows: Sequence[Row[Any]] = []
    if len(words) > 1 or own:
        # Facts with all of the words; about the user first, who is seldom the commonest.
        mine = [*words, opaque(SELF_WORD)]
        rows = candidates(connection, shelf.tables, scope.key, words, limit, every=True)
        if own and len(rows) == limit:
            rows = [
                *rows,
                *candidates(connection, shelf.tables, scope.key, mine, limit, every=True),
            ]
    found = _matches(shelf, connection, scope, words, rows, {})
    wanted = k if complete else 1
    while len(found.active) < wanted and words:
        known = counts(connection, shelf.tables, scope.key, words)
        rare = [word for word in words if known[word] <= COMMON]
        rows = candidates(connection, shelf.tables, scope.key, rare or words, limit)
        found = _matches(shelf, connection, scope, words, rows, known)
        if len(rows) < limit:
            break
        limit *= 8
    return found


def _matches(
    shelf: Shelf,
    connection: Connection,
    scope: Scope,
    words: Sequence[str],
    rows: Sequence[Row[Any]],
    counted: Mapping[str, int],
) -> Matches:
    seen, held = visible_in(scope), {row.number: row for row in rows}
    here = [number for number, row in held.items() if seen(row.branch)]
    closed = closed_by(connection, shelf.tables, scope, here)
    return Matches(
        words,
        {number: unscoped(scope.key, row.words) for number, row in held.items()},
        [number for number in here if number not in closed],
        lambda number: shelf.fact(held[number]),
        counted,
    )


def _matching_sealed(
    shelf: Shelf, connection: Connection, scope: Scope, terms: Sequence[str]
) -> Matches:
    facts = {fact.number: fact for fact in shelf.visible(connection, scope)}
    every = {number: words_of(fact) for number, fact in facts.items()}
    words = {
        number: held
        for number, held in every.items()
        if set(terms) & set(held) and facts[number].kind != "mention"
    }
    active = [number for number in words if facts[number].active]
    return Matches(terms, words, active, facts.__getitem__)
