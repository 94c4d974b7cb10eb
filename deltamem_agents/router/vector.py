"""Exact vector search: float32 bytes in the database, one matrix a scope, cached in process.

Where the database has pgvector and the tenant is not encrypted, the server compares the vectors and
no matrix is read (`pgvector.py`).

Below some 50,000 facts a scope an exact product is faster than an approximate index, and it never
loses a row to a filter. The cache is valid as long as the number of the scope's vectors, their
greatest fact and the sum of their facts are as they were when it was read; fact numbers are never
used twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from sqlalchemy import Connection, func, select

from deltamem_agents.checkpoint.embeddings import add_embeddings
from deltamem_agents.errors import ConfigError, StorageBusyError
from deltamem_agents.router import pgvector
from deltamem_agents.router.embed import embedder_name
from deltamem_agents.router.facts import Fact, Scope
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import read, write

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Asked = Callable[[int, Sequence[int]], dict[int, float]]
Version = tuple[Any, ...]
CACHED_SCOPES = 64


class VectorIndex:
    """The vectors of one tenant's facts by one embedder.

    Args:
        embeddings: any of LangChain's.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        if not isinstance(embeddings, Embeddings):
            raise ConfigError(
                "embeddings are LangChain's",
                got=embeddings,
                remedy="Pass an Embeddings, such as router.embed.MiniLM(), or none.",
            )
        self.embeddings = embeddings
        self.name = embedder_name(embeddings)
        self._lock = Lock()
        self._cache: OrderedDict[str, tuple[Version, list[int], Matrix]] = OrderedDict()

    def prepare(self, shelf: Shelf) -> None:
        """Makes the place for what pgvector searches, where there is pgvector.

        Where others use the table all the while, the next store that is opened tries again.
        """
        if shelf.encrypted or shelf.family != "postgresql":
            return
        with suppress(StorageBusyError):
            write(shelf, lambda connection: add_embeddings(connection, shelf.tables))

    def search(
        self, shelf: Shelf, query: str, scope: Scope, depth: int, also: Sequence[int] = ()
    ) -> dict[int, float]:
        """Cosines of facts of the scope to the query, by fact number.

        Args:
            shelf: of the tenant.
            query: a question or words.
            scope: whose.
            depth: so many of the nearest are told at least.
            also: numbers of facts that are told, too.

        Raises:
            ConfigError: what the embedder gave is no vector, or has another length than the
                stored ones.
        """
        return self.ask(shelf, query, scope)(depth, also)

    def ask(self, shelf: Shelf, query: str, scope: Scope) -> Asked:
        """Embeds the query once, for `search` to one depth after another.

        Facts without a vector yet (recorded by a process without this embedder) get one first.
        """
        self.fill(shelf, scope)
        held, found = read(shelf, lambda connection: self._held(shelf, connection, scope))
        if not held:
            return lambda depth, also: {}
        asked = _unit([self.embeddings.embed_query(query)], 1)[0]

        def nearest(depth: int, also: Sequence[int]) -> dict[int, float]:
            numbers, matrix = held, found
            if isinstance(matrix, str):
                server = pgvector.Compared(shelf, matrix, scope, self.name)
                cosines = server.nearest(asked, depth, also)
                if cosines is not None:
                    return cosines
                numbers, matrix = read(shelf, lambda c: self._matrix(shelf, c, scope))
            if not numbers:
                return {}
            if matrix.shape[1] != len(asked):
                raise pgvector.mismatch(f"{matrix.shape[1]} stored, {len(asked)} asked")
            return dict(zip(numbers, (matrix @ asked).tolist(), strict=True))

        return nearest

    def fill(self, shelf: Shelf, scope: Scope) -> int:
        """Embeds the scope's facts that have no vector; returns how many."""
        facts = read(shelf, lambda connection: self._missing(shelf, connection, scope))
        if not facts:
            return 0
        given = self.embeddings.embed_documents([_text(fact) for fact in facts])
        vectors = _unit(given, len(facts))
        return write(shelf, lambda c: self._insert(shelf, c, scope, facts, vectors))

    def _missing(self, shelf: Shelf, connection: Connection, scope: Scope) -> list[Fact]:
        facts, vectors = shelf.tables.facts, shelf.tables.vectors
        same = (vectors.c.fact == facts.c.number) & (vectors.c.model == self.name)
        if shelf.family == "postgresql":  # which would read the vectors of every scope, else
            same &= vectors.c.scope == scope.key
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
        own = (table.c.scope == scope.key, table.c.model == self.name)
        stored = connection.scalar(select(table.c.vector).where(*own).limit(1))
        if stored is not None and (length := _length(shelf.open(bytes(stored)))) != len(vectors[0]):
            raise pgvector.mismatch(f"{length} stored, {len(vectors[0])} given")
        # Another process may have embedded or forgotten some of them in the meantime. Who deletes
        # the others' rows from now on waits, and then deletes their vectors too.
        alive = select(known.c.number).where(
            known.c.scope == scope.key,
            known.c.number.between(facts[0].number, facts[-1].number),
        )
        due = set(connection.scalars(alive.with_for_update(read=True, key_share=True)))
        due -= set(connection.scalars(select(table.c.fact).where(*own)))
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
        number = table.c.fact
        version: Version = tuple(
            connection.execute(
                select(func.count(), func.max(number), func.sum(number)).where(*where)
            ).one()
        )
        with self._lock:
            cached = self._cache.get(scope.key)
            if cached is not None and cached[0] == version:
                self._cache.move_to_end(scope.key)
                return cached[1], cached[2]
        rows = connection.execute(select(number, table.c.vector).where(*where).order_by(number))
        numbers, parts = [], []
        for row in rows:
            numbers.append(row.fact)
            parts.append(shelf.open(bytes(row.vector))[1:])
        lengths = {len(part) // 4 for part in parts}
        if len(lengths) > 1:
            raise pgvector.mismatch(f"{min(lengths)} and {max(lengths)} stored")
        matrix = np.frombuffer(b"".join(parts), dtype="<f4").reshape(len(parts), *lengths)
        version = (len(numbers), numbers[-1] if numbers else None, sum(numbers) or None)
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


def _length(data: bytes) -> int:
    return (len(data) - 1) // 4


def _unit(given: Sequence[Sequence[float]], texts: int) -> Matrix:
    """[texts, n] of unit length; a vector with a number that is none, or too large, is zeros.

    Raises:
        ConfigError: it is not one vector a text, all of one length.
    """
    try:
        vectors = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _no_vectors(str(error)) from error
    if vectors.ndim != 2 or len(vectors) != texts or not vectors.shape[1]:
        raise _no_vectors(f"{texts} texts, and numbers of shape {vectors.shape}")
    sound = (np.abs(vectors) <= np.finfo(np.float32).max).all(axis=1, keepdims=True)
    vectors = np.where(sound, vectors, 0.0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _no_vectors(got: str) -> ConfigError:
    return ConfigError(
        "an embedder gives one vector a text, all of one length",
        got=got,
        remedy="Look at what its `embed_documents` and `embed_query` return.",
    )
