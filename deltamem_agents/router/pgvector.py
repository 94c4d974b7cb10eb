"""Exact vector search inside PostgreSQL: the matrix's cosines, computed where the rows are.

What a row's bytes say is the truth; the column `embedding` repeats it for pgvector. There is no
approximate index on it: those find the nearest of the whole table and drop other scopes' rows
afterwards, so that a small scope among many would lose facts; and each is for one length, while
every embedder has its own. The index of scope and embedder leads to the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def nearest(
    shelf: Shelf,
    schema: str,
    key: tuple[Scope, str],
    asked: Vector,
    depth: int,
    also: Sequence[int],
) -> dict[int, float] | None:
    """Cosines of the nearest facts of a scope, and of some more, by fact number.

    Args:
        shelf: of a plain tenant.
        schema: of pgvector.
        key: the scope, and the embedder's name.
        asked: [n], of unit length.
        depth: how many are nearest.
        also: numbers of facts that are told too, however far they are.

    Returns:
        None where pgvector cannot tell: the vector is too long for it, or a process that does not
        know the column inserts all the while.

    Raises:
        ConfigError: the stored vectors have another length.
        StorageError: the database failed, or the extension went away in between.
    """
    if len(asked) > LONGEST:
        return None
    for _ in range(2):
        rows = read(shelf, lambda c: _rows(c, shelf, schema, key, asked, depth, also))
        other = {(row.bytes - 1) // 4 for row in rows if row.bytes != 1 + 4 * len(asked)}
        if other:
            raise mismatch(other.pop(), len(asked))
        if all(row.cosine is not None for row in rows):
            return {row.fact: row.cosine for row in rows}
        write(shelf, lambda c: _fill(c, shelf, schema, key))
    return None


def mismatch(stored: int, asked: int) -> ConfigError:
    """The error that the stored vectors are of another length than the question's."""
    return ConfigError(
        "stored vectors have the embedder's length",
        got=f"{stored} stored, {asked} asked",
        remedy="Give each embedder a `name` of its own.",
    )


def _rows(
    connection: Connection,
    shelf: Shelf,
    schema: str,
    key: tuple[Scope, str],
    asked: Vector,
    depth: int,
    also: Sequence[int],
) -> list[Row[Any, Any, Any]]:
    """Rows (fact, bytes, cosine); whoever has no cosine comes first."""
    table = with_embedding(shelf.tables)
    # All are of unit length, so that the product is the cosine, and 0 for a vector of zeros. The
    # operator is named with its schema: that need not be in the search path.
    operator = f"OPERATOR({_quoted(schema)}.<#>)"
    negative: ColumnElement[float] = table.c.embedding.op(operator, return_type=Double())(
        _given(connection, schema)
    )
    size = func.octet_length(table.c.vector)
    cosine = case((size == 1 + 4 * len(asked), -negative)).label("cosine")
    scope, model = key
    found = select(table.c.fact, size.label("bytes"), cosine).where(
        table.c.scope == scope.key, table.c.model == model
    )
    given = {"given": _text(asked.tobytes())}
    best = found.order_by(cosine.desc().nulls_first(), table.c.fact).limit(depth)
    rows = list(connection.execute(best, given))
    rest = set(also) - {row.fact for row in rows}
    if rest:
        rows += connection.execute(found.where(table.c.fact.in_(rest)), given)
    return rows


def _fill(connection: Connection, shelf: Shelf, schema: str, key: tuple[Scope, str]) -> None:
    """Fills the column where a row of the scope lacks it."""
    table, (scope, model), last = with_embedding(shelf.tables), key, 0
    own = (table.c.scope == scope.key, table.c.model == model)
    due = (table.c.embedding.is_(None), func.octet_length(table.c.vector) <= 1 + 4 * LONGEST)
    change = (
        update(table)
        .where(table.c.fact == bindparam("number"), table.c.model == model)
        .values(embedding=_given(connection, schema))
    )
    lacking = select(table.c.fact, table.c.vector).where(*own, *due).order_by(table.c.fact)
    while rows := connection.execute(lacking.where(table.c.fact > last).limit(AT_ONCE)).all():
        opened = [(row.fact, shelf.open(bytes(row.vector))[1:]) for row in rows]
        connection.execute(change, [{"number": n, "given": _text(data)} for n, data in opened])
        last = rows[-1].fact


def _given(connection: Connection, schema: str) -> ColumnElement[Any]:
    # A string by its own type: what the server prepared then names no type of the extension, which
    # may be dropped and made anew.
    return cast(bindparam("given", type_=String()), vector_type(connection, schema))


def _quoted(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'


def _text(data: bytes) -> str | None:
    """A vector as pgvector reads it, which knows no NaN; None if it is too long for it."""
    vector = np.frombuffer(data, dtype="<f4")
    return None if len(vector) > LONGEST else str(np.nan_to_num(vector).tolist())
