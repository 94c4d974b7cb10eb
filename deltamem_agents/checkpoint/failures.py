"""What a driver raised, as one of our errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sqlalchemy import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from deltamem_agents.errors import (
    ConnectionLostError,
    CorruptStorageError,
    DeltaMemError,
    ReadOnlyStorageError,
    StorageBusyError,
    StorageError,
    StorageFullError,
)

DUPLICATE = 1062  # MySQL's code for a key that is there already
# Another transaction was in the way; the same one, run again, can succeed.
# (Unique keys too: all else that may be there already is inserted without complaint.)
_RETRY_STATES = {"40001", "40P01", "23503", "23505", "55P03"}
_RETRY_CODES = {1020, DUPLICATE, 1205, 1213, 1412, 1451, 1452}
_FULL_STATES = {"53100", "54023"}
_FULL_CODES = {1021, 1114, 3675}
_LOST_CODES = {1040, 1045, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}

DAMAGED = "The database is damaged; restore it from a backup."


def original(error: BaseException) -> BaseException:
    """The driver's own error, also where SQLAlchemy wrapped it."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's five letters, or ""."""
    for name in ("sqlstate", "pgcode"):
        value = getattr(error, name, None)
        if isinstance(value, str):
            return value
    return ""


def error_code(error: BaseException) -> int:
    """MySQL's number, or 0."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def may_retry(error: BaseException, family: str) -> bool:
    """Whether the transaction lost against another one and can be run again."""
    error = original(error)
    if family == "postgresql":
        return sqlstate(error) in _RETRY_STATES
    return family == "mysql" and error_code(error) in _RETRY_CODES


def is_lost(error: BaseException, dialect: Dialect, connection: object) -> bool:
    """Whether the connection broke (or was never made)."""
    error = original(error)
    if isinstance(error, ConnectionError | EOFError):
        return True
    if isinstance(error, sqlite3.Error):
        return False
    if sqlstate(error)[:2] in ("08", "57") or error_code(error) in _LOST_CODES:
        return True
    try:
        return bool(dialect.is_disconnect(error, connection, None))  # type: ignore[arg-type]
    except Exception:
        return False


def never_made(error: BaseException, dialect: Dialect) -> bool:
    """Whether this error of opening a connection is the server's not being there."""
    module, source = dialect.loaded_dbapi, original(error)
    if isinstance(source, sqlite3.Error) or isinstance(error, PoolTimeoutError):
        return False
    if module is not None and isinstance(source, module.OperationalError):
        return True
    return is_lost(error, dialect, None)


def translate(error: BaseException, dialect: Dialect, *, lost: bool) -> BaseException:
    """The error to raise instead; our own, and what no driver raises, stay as they are."""
    source = original(error)
    message = f"{type(source).__name__}: {source}"
    module = dialect.loaded_dbapi
    translated: DeltaMemError | None = None
    if isinstance(error, DeltaMemError):
        translated = error
    elif isinstance(error, PoolTimeoutError):
        translated = StorageBusyError(
            "a connection is free in time", got=message, remedy="Make the engine's pool larger."
        )
    elif lost:
        translated = ConnectionLostError(
            "the database answers",
            got=message,
            remedy="Nothing was kept of this operation unless it was committed; call it again.",
        )
    elif isinstance(source, sqlite3.Error):
        translated = _from_sqlite(source, message)
    elif module is not None and isinstance(source, module.Error):
        translated = _from_server(source, message)
    return error if translated is None else translated


def _from_server(error: BaseException, message: str) -> DeltaMemError:
    state, code = sqlstate(error), error_code(error)
    if state in _FULL_STATES or code in _FULL_CODES:
        return _full(message)
    if state == "25006" or code in (1290, 1792):
        return _read_only(message)
    if state in _RETRY_STATES or code in _RETRY_CODES:
        return StorageBusyError(
            "other writers leave the rows in time",
            got=message,
            remedy="Call again, or look for a transaction that stays open.",
        )
    return _refused(message)


def _from_sqlite(error: sqlite3.Error, message: str) -> DeltaMemError:
    name = getattr(error, "sqlite_errorname", "") or ""
    for start, made in _SQLITE.items():
        if name.startswith(start):
            return made(message)
    return _refused(message)


def _full(message: str) -> StorageError:
    return StorageFullError(
        "the database has room",
        got=message,
        remedy="Free space, or delete old checkpoints (`retain`) and `vacuum`.",
    )


def _read_only(message: str) -> StorageError:
    return ReadOnlyStorageError(
        "the database can be written",
        got=message,
        remedy="Check the rights of the file or user, and that the server is no replica.",
    )


def _refused(message: str) -> StorageError:
    return StorageError(
        "the database carries the operation out",
        got=message,
        remedy="Mend what the driver names, and call again; nothing was kept.",
    )


def _unsound(message: str) -> StorageError:
    return CorruptStorageError(
        "the file is a sound SQLite database",
        got=message,
        remedy="Check the path, or restore it from a backup; nothing was written to it.",
    )


def _busy(message: str) -> StorageError:
    return StorageBusyError(
        "another writer leaves the database in time",
        got=message,
        remedy="Raise `busy_timeout`, or look for a transaction that stays open.",
    )


def _closed(message: str) -> StorageError:
    return ConnectionLostError(
        "the database file can be opened",
        got=message,
        remedy="Check that its folder exists and can be written.",
    )


# By how the name that SQLite gives an error begins.
_SQLITE: dict[str, Callable[[str], StorageError]] = {
    "SQLITE_FULL": _full,
    "SQLITE_IOERR_WRITE": _full,
    "SQLITE_IOERR_SHMSIZE": _full,
    "SQLITE_CORRUPT": _unsound,
    "SQLITE_NOTADB": _unsound,
    "SQLITE_BUSY": _busy,
    "SQLITE_LOCKED": _busy,
    "SQLITE_READONLY": _read_only,
    "SQLITE_CANTOPEN": _closed,
}
