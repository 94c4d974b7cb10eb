"""Exact vector search inside PostgreSQL: the matrix's cosines, computed where the rows are.

What a row's bytes say is the truth; the column `embedding` repeats it for pgvector. There is no
approximate index on it: those find the nearest of the whole table and drop other scopes' rows
afterwards, so that a small scope among many would lose facts; and each is for one length, while
every embedder has its own. The index of scope and embedder leads to the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Row,
    String,
    bindparam,
    case,
    cast,
    func,
    insert,
    select,
    update,
)

from deltamem_agents.checkpoint.embeddings import embedding_schema, vector_type, with_embedding
from deltamem_agents.errors import ConfigError
from deltamem_agents.router.facts import Scope
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import read, write

Vector = np.ndarray[Any, np.dtype[np.float32]]
LONGEST = 16_000  # numbers of a vector, by pgvector
AT_ONCE = 500  # rows a call: as text a number takes some 20 bytes


def schema_of(connection: Connection, shelf: Shelf) -> str | None:
    """The schema of pgvector where this tenant's vectors are searched by it; None elsewhere."""
    return None if shelf.encrypted else embedding_schema(connection, shelf.tables)


def insert_vectors(connection: Connection, shelf: Shelf, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows of `fact_vectors`, with the column where it is used."""
    schema = schema_of(connection, shelf)
    if schema is None:
        connection.execute(shelf.tables.vectors.insert(), rows)
        return
    table = with_embedding(shelf.tables)
    statement = insert(table).values(embedding=_given(connection, schema))
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        connection.execute(statement, [{**r, "given": _text(r["vector"][1:])} for r in part])


@dataclass(frozen=True)
class Compared:
    """The vectors of one scope by one embedder, which the server compares.

    Attributes:
        shelf: of a plain tenant.
        schema: of pgvector.
        scope: whose.
        model: the embedder's name.
    """

    shelf: Shelf
    schema: str
    scope: Scope
    model: str

    def nearest(self, asked: Vector, depth: int, also: Sequence[int]) -> dict[int, float] | None:
        """Cosines of the nearest facts of the scope, and of some more, by fact number.

        Args:
            asked: [n], of unit length.
            depth: how many are nearest.
            also: numbers of facts that are told too, however far they are.

        Returns:
            None where pgvector cannot tell: the vector is too long for it, or a process that does
            not know the column inserts all the while.

        Raises:
            ConfigError: the stored vectors have another length.
            StorageError: the database failed, or the extension went away in between.
        """
        if len(asked) > LONGEST:
            return None
        for _ in range(2):
            rows = read(self.shelf, lambda c: self._rows(c, asked, depth, also))
            other = {(row.bytes - 1) // 4 for row in rows if row.bytes != 1 + 4 * len(asked)}
            if other:
                raise mismatch(f"{other.pop()} stored, {len(asked)} asked")
            if all(row.cosine is not None for row in rows):
                return {row.fact: row.cosine for row in rows}
            write(self.shelf, self._fill)
        return None

    def _rows(
        self, connection: Connection, asked: Vector, depth: int, also: Sequence[int]
    ) -> list[Row[Any, Any, Any]]:
        """Rows (fact, bytes, cosine); whoever has no cosine comes first."""
        table = with_embedding(self.shelf.tables)
        # All are of unit length, so that the product is the cosine, and 0 for a vector of zeros.
        # The operator is named with its schema: that need not be in the search path.
        operator = f"OPERATOR({_quoted(self.schema)}.<#>)"
        # By a query of its own the text is read once; in a plan that the server keeps it would
        # otherwise be read for each row, which takes ten times as long as the product.
        once = select(_given(connection, self.schema)).scalar_subquery()
        negative: ColumnElement[float] = table.c.embedding.op(operator, return_type=Double())(once)
        size = func.octet_length(table.c.vector)
        cosine = case((size == 1 + 4 * len(asked), -negative)).label("cosine")
        found = select(table.c.fact, size.label("bytes"), cosine).where(
            table.c.scope == self.scope.key, table.c.model == self.model
        )
        given = {"given": _text(asked.tobytes())}
        best = found.order_by(cosine.desc().nulls_first(), table.c.fact).limit(depth)
        rows = list(connection.execute(best, given))
        rest = set(also) - {row.fact for row in rows}
        if rest:
            rows += connection.execute(found.where(table.c.fact.in_(rest)), given)
        return rows

    def _fill(self, connection: Connection) -> None:
        """Fills the column where a row of the scope lacks it."""
        table, last = with_embedding(self.shelf.tables), 0
        own = (table.c.scope == self.scope.key, table.c.model == self.model)
        due = (table.c.embedding.is_(None), func.octet_length(table.c.vector) <= 1 + 4 * LONGEST)
        change = (
            update(table)
            .where(table.c.fact == bindparam("number"), table.c.model == self.model, due[0])
            .values(embedding=_given(connection, self.schema))
        )
        lacking = select(table.c.fact, table.c.vector).where(*own, *due).order_by(table.c.fact)
        while rows := connection.execute(lacking.where(table.c.fact > last).limit(AT_ONCE)).all():
            opened = [(row.fact, self.shelf.open(bytes(row.vector))[1:]) for row in rows]
            connection.execute(change, [{"number": n, "given": _text(data)} for n, data in opened])
            last = rows[-1].fact


def mismatch(got: str) -> ConfigError:
    """The error that stored vectors are of another length than the embedder's."""
    return ConfigError(
        "stored vectors have the embedder's length",
        got=got,
        remedy="Give each embedder a `name` of its own.",
    )


def _given(connection: Connection, schema: str) -> ColumnElement[Any]:
    # A string by its own type: what the server prepared then names no type of the extension, which
    # may be dropped and made anew.
    return cast(bindparam("given", type_=String()), vector_type(connection, schema))


def _quoted(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'


def _text(data: bytes) -> str | None:
    """A vector as pgvector reads it; None if it is too long for it."""
    vector = np.frombuffer(data, dtype="<f4")
    return None if len(vector) > LONGEST else str(vector.tolist())
