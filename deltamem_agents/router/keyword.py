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

from deltamem_agents.checkpoint.fact_tables import FactTables
from deltamem_agents.router.analyze import aliases, opaque, scope_word, tokens
from deltamem_agents.router.facts import Fact

K1, B = 1.2, 0.75
_SEARCH = {
    "sqlite": (
        "SELECT f.* FROM {index} w JOIN {facts} f ON f.number = w.rowid"
        " WHERE w.{index} MATCH :query AND f.scope = :scope ORDER BY w.rank LIMIT :limit"
    ),
    "postgresql": (
        "SELECT f.* FROM {facts} f, to_tsquery('simple', :query) query"
        " WHERE f.scope = :scope AND to_tsvector('simple', f.words) @@ query"
        " ORDER BY ts_rank(to_tsvector('simple', f.words), query) DESC, f.number DESC LIMIT :limit"
    ),
    "mysql": (
        "SELECT f.* FROM {facts} f WHERE f.scope = :scope"
        " AND MATCH(f.words) AGAINST(:query IN BOOLEAN MODE)"
        " ORDER BY MATCH(f.words) AGAINST(:query IN BOOLEAN MODE) DESC, f.number DESC LIMIT :limit"
    ),
}


@cache
def _search(kind: str, tables: FactTables) -> TextClause:
    names = {"facts": tables.named("facts"), "index": tables.named("fact_words")}
    return text(_SEARCH[kind].format(**names))


def words_of(fact: Fact) -> tuple[str, ...]:
    """All words a fact can be found by, with repeats."""
    return (
        *tokens(fact.subject if fact.subject != "user" else ""),
        *tokens(fact.attribute),
        *aliases(fact.attribute),
        *aliases(fact.kind),
        *tokens(fact.value),
        *tokens(fact.quote),
    )


def index_text(scope_key: str, words: Iterable[str]) -> str:
    """What the full-text index gets: the scope and the words, all opaque."""
    return " ".join([scope_word(scope_key), *(opaque(word) for word in words)])


def candidates(
    connection: Connection,
    tables: FactTables,
    scope_key: str,
    terms: Sequence[str],
    limit: int,
) -> Sequence[Row[Any]]:
    """Rows of one scope that hold at least one of the terms, the database's best first.

    Args:
        connection: of SQLite, PostgreSQL, MariaDB or MySQL.
        tables: of the installation.
        scope_key: `Scope.key`; in the match as an opaque word, and once more as an equality.
        terms: words as `analyze.content` gives them.
        limit: at most that many rows.
    """
    if not terms:
        return []
    name = connection.dialect.name
    kind = name if name in ("sqlite", "postgresql") else "mysql"
    scope, words = scope_word(scope_key), [opaque(term) for term in terms]
    query = {
        "sqlite": f"{scope} AND ({' OR '.join(words)})",
        "postgresql": f"{scope} & ({' | '.join(words)})",
        "mysql": f"+{scope} +({' '.join(words)})",
    }[kind]
    found = connection.execute(
        _search(kind, tables), {"query": query, "scope": scope_key, "limit": limit}
    )
    return found.all()


def idf(term_count: int, total: int) -> float:
    """Weight of a word that stands in `term_count` of `total` facts; never negative."""
    return math.log(1 + (total - term_count + 0.5) / (term_count + 0.5))


def bm25(
    terms: Sequence[str], documents: Mapping[int, Sequence[str]], total: int
) -> dict[int, tuple[float, float]]:
    """Ranks documents by BM25 (Robertson and Zaragoza 2009, equation 3.15).

    Args:
        terms: the question's words.
        documents: number -> words; all documents that hold any of the terms.
        total: documents in the scope, at least len(documents).

    Returns:
        number -> (score, share of the question's weight that stands in the document, 0 to 1).
    """
    sets = {number: set(words) for number, words in documents.items()}
    weights = {
        term: idf(sum(term in words for words in sets.values()), max(total, len(documents)))
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
