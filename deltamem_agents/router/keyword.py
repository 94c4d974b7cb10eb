"""Keyword search: candidates from the database's full-text index, ranked here by BM25.

The index narrows a scope down to the facts that share a word with the question; the ranking is
computed in process from the scope's own rows, so that scores are the same on every database and
the words of other tenants have no influence on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from deltamem_agents.checkpoint.fact_tables import FactTables, scoped
from deltamem_agents.router.analyze import aliases, opaque, tokens
from deltamem_agents.router.facts import Fact

K1, B = 1.2, 0.75
SELF_WORD = "\u2022self"  # stands in what is about the user; no text has it
COMMON = 400  # a word in more facts of a scope than this is not searched for by itself
READ = 2048  # rows that a server ranks; the words of a question seldom stand in more
# The words of the full-text match carry the scope, so that the index alone finds the rows (without
# statistics a planner would walk the scope's rows instead); the scope once more, as an equality.
# The servers' own ranks would analyse each text again: words are counted instead.
_SEARCH = {
    "sqlite": (
        "SELECT f.* FROM {index} w JOIN {facts} f ON f.number = w.rowid"
        " WHERE w.{index} MATCH :query AND f.scope = :scope ORDER BY w.rank LIMIT :limit"
    ),
    "postgresql": (
        "WITH held AS MATERIALIZED (SELECT number FROM {facts}"
        " WHERE to_tsvector('simple', words) @@ to_tsquery('simple', :query)"
        " LIMIT {read}) SELECT f.* FROM held JOIN {facts} f ON f.number = held.number"
        " WHERE f.scope = :scope"
        " ORDER BY {fit} DESC, f.number DESC LIMIT :limit"
    ),
    "mysql": (
        "SELECT f.* FROM (SELECT number FROM {facts}"
        " WHERE MATCH(words) AGAINST(:query IN BOOLEAN MODE)"
        " LIMIT {read}) held"
        " JOIN {facts} f ON f.number = held.number WHERE f.scope = :scope"
        " ORDER BY {fit} DESC, f.number DESC LIMIT :limit"
    ),
}


@cache
def _search(kind: str, tables: FactTables, words: int) -> TextClause:
    one = "CASE WHEN position(:w{0} in concat(' ', f.words, ' ')) > 0 THEN 1 ELSE 0 END"
    fit = " + ".join(one.format(number) for number in range(words))
    names = {"facts": tables.named("facts"), "index": tables.named("fact_words")}
    return text(_SEARCH[kind].format(**names, fit=fit, read=READ))


def words_of(fact: Fact) -> tuple[str, ...]:
    """All words a fact can be found by, with repeats."""
    return (
        *((SELF_WORD,) if fact.subject == "user" else tokens(fact.subject)),
        *tokens(fact.attribute),
        *aliases(fact.attribute),
        *aliases(fact.kind),
        *tokens(fact.value),
        *tokens(fact.quote),
    )


def index_text(scope_key: str, words: Iterable[str]) -> str:
    """What the full-text index gets: the words, all opaque, each with the scope in front."""
    return " ".join(scoped(scope_key, map(opaque, words)))


def candidates(
    connection: Connection,
    tables: FactTables,
    scope_key: str,
    words: Sequence[str],
    limit: int,
    *,
    every: bool = False,
) -> Sequence[Row[Any]]:
    """Rows of one scope that hold one of the words, the database's best first.

    Args:
        connection: of SQLite, PostgreSQL, MariaDB or MySQL.
        tables: of the installation.
        scope_key: `Scope.key`; in front of each word of the match, and once more as an equality.
        words: as the index holds them (`opaque`).
        limit: at most that many rows.
        every: rows that hold all of the words.
    """
    if not words:
        return []
    kind = _kind(connection)
    given = {"query": _match(kind, scope_key, words, every), "scope": scope_key, "limit": limit}
    if kind != "sqlite":
        held = scoped(scope_key, words)
        given |= {f"w{number}": f" {word} " for number, word in enumerate(held)}
    return connection.execute(_search(kind, tables, len(words)), given).all()


def counts(
    connection: Connection, tables: FactTables, scope_key: str, words: Sequence[str]
) -> dict[str, int]:
    """In how many facts of the scope each word stands, counted up to `COMMON` + 1."""
    kind = _kind(connection)
    parts: list[str] = []
    given: dict[str, str] = {}
    for number, word in enumerate(words):
        given[f"q{number}"] = _match(kind, scope_key, [word], True)
        parts.append(_count(kind, tables, number))
    rows = connection.execute(text(" UNION ALL ".join(parts)), given)
    found = {row[0]: row[1] for row in rows}
    return {word: found[number] for number, word in enumerate(words)}


def _kind(connection: Connection) -> str:
    name = connection.dialect.name
    return name if name in ("sqlite", "postgresql") else "mysql"


def _match(kind: str, scope_key: str, words: Sequence[str], every: bool) -> str:
    held = scoped(scope_key, words)
    if kind == "sqlite":
        return (" AND " if every else " OR ").join(held)
    if kind == "postgresql":
        return (" & " if every else " | ").join(held)
    return " ".join(f"+{word}" for word in held) if every else " ".join(held)


def _count(kind: str, tables: FactTables, number: int) -> str:
    facts, index = tables.named("facts"), tables.named("fact_words")
    inner = {
        "sqlite": f"SELECT 1 FROM {index} WHERE {index} MATCH :q{number}",
        "postgresql": f"SELECT 1 FROM {facts}"
        f" WHERE to_tsvector('simple', words) @@ to_tsquery('simple', :q{number})",
        "mysql": f"SELECT 1 FROM {facts} WHERE MATCH(words) AGAINST(:q{number} IN BOOLEAN MODE)",
    }[kind]
    return f"SELECT {number}, count(*) FROM ({inner} LIMIT {COMMON + 1}) counted{number}"


def idf(term_count: int, total: int) -> float:
    """Weight of a word that stands in `term_count` of `total` facts; never negative."""
    return math.log(1 + (total - term_count + 0.5) / (term_count + 0.5))


def bm25(
    terms: Sequence[str],
    documents: Mapping[int, Sequence[str]],
    total: int,
    counted: Mapping[str, int] | None = None,
) -> dict[int, tuple[float, float]]:
    """Ranks documents by BM25 (Robertson and Zaragoza 2009, equation 3.15).

    Args:
        terms: the question's words.
        documents: number -> words; documents that hold any of the terms.
        total: documents in the scope, at least len(documents).
        counted: how many documents hold a term, where that is known better than from `documents`.

    Returns:
        number -> (score, share of the question's weight that stands in the document, 0 to 1).
    """
    sets = {number: set(words) for number, words in documents.items()}
    known = counted or {}
    weights = {
        term: idf(
            max(sum(term in words for words in sets.values()), known.get(term, 0)),
            max(total, len(documents), *known.values(), 0),
        )
        for term in terms
    }
    whole = sum(weights.values()) or 1.0
    length = sum(len(words) for words in documents.values()) / max(len(documents), 1) or 1.0
    scores: dict[int, tuple[float, float]] = {}
    for number, words in documents.items():
        norm = K1 * (1 - B + B * len(words) / length)
        score = covered = 0.0
        for term in terms:
            count = words.count(term) if term in sets[number] else 0
            if count:
                score += weights[term] * count * (K1 + 1) / (count + norm)
                covered += weights[term]
        scores[number] = (score, covered / whole)
    return scores
