"""Exact vector search: float32 bytes in the database, one matrix a scope, cached in process.

Where the database has pgvector and the tenant is not encrypted, the server compares the vectors and
no matrix is read (`pgvector.py`).

Below some 50,000 facts a scope an exact product is faster than an approximate index, and it never
loses a row to a filter. The cache is valid as long as number and greatest fact of the scope's
vectors are as they were when it was read; fact numbers are never used twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from sqlalchemy import Connection, func, select

from deltamem_agents.checkpoint.embeddings import add_embeddings
from deltamem_agents.router import pgvector
from deltamem_agents.router.embed import embedder_name
from deltamem_agents.router.facts import Fact, Scope
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import read, write

Matrix = np.ndarray[Any, np.dtype[np.float32]]
CACHED_SCOPES = 64


class VectorIndex:
    """The vectors of one tenant's facts by one embedder.

    Args:
        embeddings: any of LangChain's.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self.name = embedder_name(embeddings)
        self._lock = Lock()
        self._cache: OrderedDict[str, tuple[tuple[int, int], list[int], Matrix]] = OrderedDict()

    def prepare(self, shelf: Shelf) -> None:
        """Makes the place for what pgvector searches, where there is pgvector."""
        if not shelf.encrypted:
            write(shelf, lambda connection: add_embeddings(connection, shelf.tables))

    def search(
        self, shelf: Shelf, query: str, scope: Scope, depth: int, also: Sequence[int] = ()
    ) -> dict[int, float]:
        """Cosines of facts of the scope to the query, by fact number.

        Facts without a vector yet (recorded by a process without this embedder) get one first.

        Args:
            shelf: of the tenant.
            query: a question or words.
            scope: whose.
            depth: so many of the nearest are told at least.
            also: numbers of facts that are told, too.

        Raises:
            ConfigError: stored vectors have another length than the embedder's.
        """
        self.fill(shelf, scope)
        numbers, found = read(shelf, lambda connection: self._held(shelf, connection, scope))
        if not numbers:
            return {}
        asked = _unit(np.asarray([self.embeddings.embed_query(query)], dtype=np.float32))[0]
        if isinstance(found, str):
            cosines = pgvector.nearest(shelf, found, (scope, self.name), asked, depth, also)
            if cosines is not None:
                return cosines
            numbers, found = read(shelf, lambda c: self._matrix(shelf, c, scope))
        if found.shape[1] != asked.shape[0]:
            raise pgvector.mismatch(found.shape[1], asked.shape[0])
        return dict(zip(numbers, (found @ asked).tolist(), strict=True))

    def fill(self, shelf: Shelf, scope: Scope) -> int:
        """Embeds the scope's facts that have no vector; returns how many."""
        facts = read(shelf, lambda connection: self._missing(shelf, connection, scope))
        if not facts:
            return 0
        vectors = _unit(
            np.asarray(self.embeddings.embed_documents([_text(f) for f in facts]), np.float32)
        )
        return write(shelf, lambda c: self._insert(shelf, c, scope, facts, vectors))

    def _missing(self, shelf: Shelf, connection: Connection, scope: Scope) -> list[Fact]:
        facts, vectors = shelf.tables.facts, shelf.tables.vectors
        same = (vectors.c.fact == facts.c.number) & (vectors.c.model == self.name)
        rows = connection.execute(
            select(facts)
            .select_from(facts.outerjoin(vectors, same))
            .where(facts.c.scope == scope.key, vectors.c.fact.is_(None))
            .order_by(facts.c.number)
        )
        return [fact for row in rows if (fact := shelf.fact(row)).kind != "mention"]

    def _insert(
        self,
        shelf: Shelf,
        connection: Connection,
        scope: Scope,
        facts: Sequence[Fact],
        vectors: Matrix,
    ) -> int:
        table, known = shelf.tables.vectors, shelf.tables.facts
        # Another process may have embedded or forgotten some of them in the meantime.
        alive = connection.scalars(select(known.c.number).where(known.c.scope == scope.key))
        due = set(alive) - set(
            connection.scalars(
                select(table.c.fact).where(table.c.scope == scope.key, table.c.model == self.name)
            )
        )
        rows = [
            {
                "fact": fact.number,
                "model": self.name,
                "scope": scope.key,
                "vector": shelf.seal(b"f" + vector.astype("<f4").tobytes()),
            }
            for fact, vector in zip(facts, vectors, strict=True)
            if fact.number in due
        ]
        if rows:
            pgvector.insert_vectors(connection, shelf, rows)
        return len(rows)

    def _held(
        self, shelf: Shelf, connection: Connection, scope: Scope
    ) -> tuple[list[int], Matrix | str]:
        """Numbers and matrix of a scope; of pgvector its schema, and a number if there is any."""
        schema = pgvector.schema_of(connection, shelf)
        if schema is None:
            return self._matrix(shelf, connection, scope)
        c = shelf.tables.vectors.c
        own = select(c.fact).where(c.scope == scope.key, c.model == self.name)
        return list(connection.scalars(own.limit(1))), schema

    def _matrix(
        self, shelf: Shelf, connection: Connection, scope: Scope
    ) -> tuple[list[int], Matrix]:
        table = shelf.tables.vectors
        where = (table.c.scope == scope.key, table.c.model == self.name)
        count, last = connection.execute(
            select(func.count(), func.max(table.c.fact)).where(*where)
        ).one()
        version = (count, last or 0)
        with self._lock:
            cached = self._cache.get(scope.key)
            if cached is not None and cached[0] == version:
                self._cache.move_to_end(scope.key)
                return cached[1], cached[2]
        rows = connection.execute(
            select(table.c.fact, table.c.vector).where(*where).order_by(table.c.fact)
        ).all()
        numbers = [row.fact for row in rows]
        data = b"".join(shelf.open(bytes(row.vector))[1:] for row in rows)
        matrix = np.frombuffer(data, dtype="<f4").reshape(len(rows), -1) if rows else _EMPTY
        with self._lock:
            self._cache[scope.key] = (version, numbers, matrix)
            while len(self._cache) > CACHED_SCOPES:
                self._cache.popitem(last=False)
        return numbers, matrix

    def drop(self, scope: Scope) -> None:
        """Takes a scope out of the cache."""
        with self._lock:
            self._cache.pop(scope.key, None)


def fuse(rankings: Sequence[Sequence[int]], constant: int = 60) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): sum of 1 / (60 + rank).

    Args:
        rankings: numbers, best first, one sequence a ranking.
        constant: damps the weight of the first ranks.
    """
    fused: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, start=1):
            fused[number] = fused.get(number, 0.0) + 1.0 / (constant + rank)
    return fused


def _text(fact: Fact) -> str:
    if not fact.attribute or fact.kind == "document":
        return fact.value
    subject = f"{fact.subject}'s " if fact.subject else ""
    return f"{subject}{fact.attribute}: {fact.quote}"


def _unit(vectors: Matrix) -> Matrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


_EMPTY: Matrix = np.zeros((0, 0), dtype=np.float32)
