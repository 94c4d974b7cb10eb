"""One operation's hold on one connection: the driver's cursor under Core's statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from deltamem_agents.checkpoint.failures import DUPLICATE, error_code
from deltamem_agents.checkpoint.statements import Parameters, Statement, Statements
from deltamem_agents.errors import StorageError

LARGE = 500_000  # bytes from which MySQL's limit is asked for
_ESCAPED = b"\0\n\r\x1a\"'\\"  # two bytes each in MySQL's text


class Session:
    """Runs statements in one transaction.

    Args:
        raw: a DBAPI connection (also SQLAlchemy's adapted ones of the async drivers).
        statements: compiled for its dialect.
        core: SQLAlchemy's connection around the same one, where the operation asked for it.
    """

    def __init__(self, raw: Any, statements: Statements, core: Connection | None = None) -> None:
        self.raw, self.statements, self._core = raw, statements, core
        # psycopg's own connections give bytes as bytes, and not as hexadecimal, if asked to.
        binary = type(raw.dbapi_connection).__module__ == "psycopg"
        self._cursor = raw.cursor(binary=True) if binary else raw.cursor()

    @property
    def core(self) -> Connection:
        """SQLAlchemy's connection, for statements that are not in the hot path."""
        assert self._core is not None, "the operation was not started with core=True"
        return self._core

    def begin(self) -> None:
        """Start a transaction on a connection that commits by itself otherwise."""
        sqlite = self.statements.family == "sqlite"
        self._cursor.execute("BEGIN IMMEDIATE" if sqlite else "BEGIN")

    def commit(self) -> None:
        """End what `begin` started."""
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """End what `begin` started, if it still goes on (some errors end it themselves)."""
        if self.statements.family != "sqlite" or self.raw.driver_connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def rows(self, statement: Statement, parameters: Parameters) -> list[Sequence[Any]]:
        """All rows of a query."""
        self._cursor.execute(statement.sql, statement.bind(parameters))
        rows: list[Sequence[Any]] = self._cursor.fetchall()
        return rows

    def run(self, statement: Statement, parameters: Parameters) -> int:
        """One change; how many rows it touched."""
        bound = statement.bind(parameters)
        if self.statements.family == "mysql":
            self._refuse_larger(bound)
        self._cursor.execute(statement.sql, bound)
        count: int = self._cursor.rowcount
        return count

    def many(self, statement: Statement, parameters: Sequence[Parameters]) -> None:
        """One change for each set of parameters."""
        if len(parameters) == 1:
            self.run(statement, parameters[0])
        elif parameters:
            bound = [statement.bind(entry) for entry in parameters]
            if self.statements.family == "mysql":
                for entry in bound:
                    self._refuse_larger(entry)
            self._cursor.executemany(statement.sql, bound)

    def _refuse_larger(self, bound: Sequence[Any]) -> None:
        """Of what is more than a packet MySQL's server would only end the connection.

        Raises:
            StorageError: the values of one row are larger than it takes.
        """
        values = [value for value in bound if isinstance(value, bytes | str)]
        size = sum(map(len, values))
        if size < LARGE:
            return
        data = [value.encode() if isinstance(value, str) else value for value in values]
        size = sum(len(part) + sum(map(part.count, _ESCAPED)) for part in data)
        self._cursor.execute("SELECT @@max_allowed_packet")
        most = int(self._cursor.fetchone()[0])
        if size + LARGE > most:
            raise StorageError(
                "a value fits into one packet of the server (max_allowed_packet)",
                got=f"{size} bytes as sent, of {most}",
                remedy="Raise the server's max_allowed_packet and open the saver anew, or keep the "
                "value elsewhere; nothing was stored.",
            )

    def _numbered(self, statement: Statement, parameters: Parameters) -> int | None:
        self._cursor.execute(statement.sql, statement.bind(parameters))
        row = self._cursor.fetchone()
        return None if row is None else row[0]

    def put_checkpoint(self, head: Parameters) -> tuple[int, bool]:
        """Insert or update the row of a checkpoint; its number, and whether it is new."""
        number = self._new_checkpoint(head)
        if number is not None:
            return number, True
        if self.statements.family == "mysql":
            self.run(self.statements.put_checkpoint, head)
            number = self._cursor.lastrowid
        else:
            number = self._numbered(self.statements.put_checkpoint, head)
        assert number is not None, "an upsert gives the row's number"
        return number, False

    def _new_checkpoint(self, head: Parameters) -> int | None:
        """Insert the row of a checkpoint; its number, or None if it is there already."""
        statement = self.statements.new_checkpoint
        if self.statements.family == "mysql":
            # The count of an upsert does not tell: 1 for a new row, and for one that stays as it
            # was; and INSERT IGNORE would also store what does not fit, cut short.
            try:
                self.run(statement, head)
            except Exception as error:
                if error_code(error) != DUPLICATE:
                    raise
                return None
        elif self.statements.family == "postgresql":
            return self._numbered(statement, head)
        elif self.run(statement, head) != 1:  # SQLite, where RETURNING costs more than the insert
            return None
        number: int = self._cursor.lastrowid
        return number

    def close(self) -> None:
        """Give the cursor back."""
        self._cursor.close()
