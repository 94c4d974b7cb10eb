"""One operation's hold on one connection: the driver's cursor under Core's statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from deltamem_agents.checkpoint.statements import Parameters, Statement, Statements


class Session:
    """Runs statements in one transaction.

    Args:
        raw: a DBAPI connection (also SQLAlchemy's adapted ones of the async drivers).
        statements: compiled for its dialect.
        core: SQLAlchemy's connection around the same one, where the operation asked for it.
    """

    def __init__(
        self, raw: Any, statements: Statements, core: Connection | None = None
    ) -> None:
        self.raw, self.statements, self._core = raw, statements, core
        self._cursor = raw.cursor()

    @property
    def core(self) -> Connection:
        """SQLAlchemy's connection, for statements that are not in the hot path."""
        assert self._core is not None, "the operation was not started with core=True"
        return self._core

    def begin(self) -> None:
        """Start a write transaction; the servers' drivers do so by themselves."""
        if self.statements.family == "sqlite":
            self._cursor.execute("BEGIN IMMEDIATE")

    def rows(self, statement: Statement, parameters: Parameters) -> list[Sequence[Any]]:
        """All rows of a query."""
        self._cursor.execute(statement.sql, statement.bind(parameters))
        rows: list[Sequence[Any]] = self._cursor.fetchall()
        return rows

    def run(self, statement: Statement, parameters: Parameters) -> int:
        """One change; how many rows it touched."""
        self._cursor.execute(statement.sql, statement.bind(parameters))
        count: int = self._cursor.rowcount
        return count

    def many(self, statement: Statement, parameters: Sequence[Parameters]) -> None:
        """One change for each set of parameters."""
        if len(parameters) == 1:
            self.run(statement, parameters[0])
        elif parameters:
            self._cursor.executemany(
                statement.sql, [statement.bind(entry) for entry in parameters])

    def put_numbered(self, statement: Statement, parameters: Parameters) -> int:
        """An insert into a numbered table; the row's number."""
        self._cursor.execute(statement.sql, statement.bind(parameters))
        if self.statements.family == "mysql":
            number: int = self._cursor.lastrowid
        else:
            number = self._cursor.fetchone()[0]
        return number

    def close(self) -> None:
        """Give the cursor back."""
        self._cursor.close()
