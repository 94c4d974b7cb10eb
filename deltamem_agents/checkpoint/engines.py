"""Engines: one for the sync methods, one per event loop for the async ones.

| given | sync methods | async methods |
|---|---|---|
| `sqlite:///file`, a path | sqlite3 | sqlite3 in a thread: one hop per operation |
| `sqlite+aiosqlite:///file` | sqlite3 | aiosqlite |
| `postgresql://`, `postgresql+psycopg://` | psycopg | psycopg |
| `postgresql+asyncpg://` | psycopg | asyncpg |
| `mysql://`, `mariadb://` (+pymysql, +asyncmy) | PyMySQL | asyncmy |
| an `Engine` | that one | that one, in a thread |
| an `AsyncEngine` | one of ours on its URL | that one |

An engine that was given is never disposed, and its pool is used as it is.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, AdaptedConnection, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool, StaticPool

from deltamem_agents.errors import ConfigError

_LOG = logging.getLogger(__name__)
_STILL_THERE = (
    "what was deleted is still in the write-ahead log of %s: another connection reads an older "
    "state of it; call the saver's purge() later"
)
WRITE = "deltamem_write"
# A put touches a handful of places; smaller pages make fewer bytes to wait for.
PAGE_BYTES = 2048
# The log starts over after so many pages. Until it has been that long once, each commit makes the
# file grow, which takes the disk twice as long as writing into it.
WAL_PAGES = 2000
PURGE_SECONDS = 2.0
SWITCH_SECONDS = 0.005
_SYNC = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_ASYNC = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mariadb+asyncmy",
}


def parse(source: str | URL | Path) -> URL:
    """A URL from what the user wrote; a plain path means a SQLite file.

    Raises:
        ConfigError: no such database, or none is named.
    """
    if isinstance(source, str) and not source.strip():
        raise ConfigError(
            "a database is named", got=source, remedy='":memory:" is one that nothing outlives.'
        )
    if isinstance(source, Path) or (isinstance(source, str) and "://" not in source):
        text = str(source)
        return URL.create("sqlite", database=None if text == ":memory:" else text)
    try:
        url = make_url(source)
    except ArgumentError as error:
        raise ConfigError(
            "the database is named by a SQLAlchemy URL",
            got=source,
            remedy='For example "sqlite:///agent.db".',
        ) from error
    if url.get_backend_name() not in _SYNC:
        raise ConfigError(
            "the database is SQLite, PostgreSQL, MariaDB or MySQL",
            got=url.get_backend_name(),
            remedy='Use one of these; "sqlite:///agent.db" needs no server.',
        )
    if url.get_backend_name() != "sqlite" and not (url.database or url.query):
        raise ConfigError(
            "a server's URL names one of its databases",
            got=url.render_as_string(),
            remedy='Write its name at the end: "/agents".',
        )
    return url


def is_memory(url: URL) -> bool:
    """Whether the database lives in the process only."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def sync_engine(url: URL, *, synchronous: str, busy_timeout: float, pool_size: int) -> Engine:
    """Our own engine for the sync methods."""
    backend = url.get_backend_name()
    url = url.set(drivername=_SYNC[backend])
    options = pool_options(backend, pool_size)
    if backend == "sqlite":
        options["connect_args"] = {"check_same_thread": False, "timeout": busy_timeout}
        options["poolclass"] = StaticPool if is_memory(url) else QueuePool
        if is_memory(url):
            for name in ("pool_size", "max_overflow", "pool_use_lifo", "pool_timeout"):
                options.pop(name)
    engine: Engine = _create(create_engine, url, options)
    if backend == "sqlite":
        _prepare_sqlite(engine, synchronous)
    return engine


def async_engine(url: URL, *, busy_timeout: float, pool_size: int, synchronous: str) -> AsyncEngine:
    """Our own engine for the async methods of one event loop."""
    backend = url.get_backend_name()
    if not url.drivername.endswith(("asyncpg", "psycopg_async")):
        url = url.set(drivername=_ASYNC[backend])
    options = pool_options(backend, pool_size)
    if backend == "sqlite":
        options["connect_args"] = {"timeout": busy_timeout}
    else:
        # Reads, and puts that are one statement, then need no more round trips than that.
        options["isolation_level"] = "AUTOCOMMIT"
    engine: AsyncEngine = _create(create_async_engine, url, options)
    if backend == "sqlite":
        _prepare_sqlite(engine.sync_engine, synchronous)
    return engine


def reader(source: str | URL | Path | Engine) -> Engine:
    """An engine that only reads (an official saver's database); a file must be there.

    Raises:
        ConfigError: there is no such file.
    """
    if isinstance(source, Engine):
        return source
    url = parse(source)
    backend = url.get_backend_name()
    if backend != "sqlite":
        opened: Engine = _create(create_engine, url.set(drivername=_SYNC[backend]), {})
        return opened
    path = Path(url.database or "")
    if not path.is_file():
        raise ConfigError(
            "the database to import is a file", got=str(path), remedy="Check the path."
        )
    # Not immutable, so that what is still in the write-ahead log is read too.
    return create_engine(f"sqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true")


def pool_options(backend: str, pool_size: int) -> dict[str, Any]:
    """LIFO, so that an idle service keeps few warm connections; unbounded overflow never."""
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 2 * pool_size,
        "pool_use_lifo": True,
        "pool_timeout": 30,
    }
    if backend in ("mysql", "mariadb"):
        options["isolation_level"] = "READ COMMITTED"
    return options


def _create(make: Any, url: URL, options: dict[str, Any]) -> Any:
    try:
        return make(url, **options)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        extra = "postgres" if url.get_backend_name() == "postgresql" else "mysql"
        raise ConfigError(
            "the driver of the database is installed",
            got=str(error),
            remedy=f"Install it: pip install 'deltamem-agents[{extra}]'.",
        ) from error


def _prepare_sqlite(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: object) -> None:
        # SQLAlchemy opens transactions by the "begin" event below, sqlite3 by itself never.
        connection.isolation_level = None
        pragmas(connection, synchronous)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def commit_by_itself(raw: Any, family: str) -> None:
    """Switch a connection of ours to autocommit; transactions then begin where we say so."""
    if family == "postgresql":
        raw.driver_connection.autocommit = True
    elif family == "mysql":
        raw.driver_connection.autocommit(True)


def pragmas(connection: Any, synchronous: str, *, given: bool = False) -> None:
    """WAL, durable commits, and deleted content overwritten with zeros.

    On a connection that was given, only the last: how durable it is, its owner has chosen.
    """
    cursor = connection.cursor()
    try:
        if not given:
            cursor.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new file; others keep theirs
            _switch_to_wal(connection, cursor)
            cursor.execute(f"PRAGMA synchronous={synchronous}")
            cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        cursor.execute("PRAGMA secure_delete=ON")
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
    finally:
        cursor.close()


def _switch_to_wal(connection: Any, cursor: Any) -> None:
    """With the patience of the connection, which SQLite itself has not here.

    Where two switch a new file at once, each holds a lock that the other needs, and SQLite refuses
    one of them without a wait.
    """
    cursor.execute("PRAGMA busy_timeout")
    patience = cursor.fetchone()[0]
    end = time.monotonic() + patience / 1000
    try:
        while True:
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                left = end - time.monotonic()
                if "locked" not in str(error) or left <= 0:
                    raise
            cursor.execute(f"PRAGMA busy_timeout={int(left * 1000)}")
            if isinstance(connection, AdaptedConnection):
                connection.run_async(lambda _: asyncio.sleep(SWITCH_SECONDS))
            else:
                time.sleep(SWITCH_SECONDS)
    finally:
        cursor.execute(f"PRAGMA busy_timeout={patience}")


def truncate_log(engine: Engine, seconds: float = PURGE_SECONDS) -> bool:
    """Move SQLite's write-ahead log into the file, and cut it to nothing.

    Args:
        engine: of the database.
        seconds: how long to wait for others that still read what was there before.

    Returns:
        Whether the log is empty: False if another connection held on to it all the time.
    """
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        patience = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        end = time.monotonic() + seconds
        try:
            while True:
                left = max(0.0, end - time.monotonic())
                cursor.execute(f"PRAGMA busy_timeout={int(min(patience, left * 1000))}")
                busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                if not busy:
                    return True
                if left == 0.0:
                    _LOG.warning(_STILL_THERE, engine.url.database)
                    return False
                time.sleep(0.01)  # another checkpoint runs: SQLite does not wait for those
        finally:
            cursor.execute(f"PRAGMA busy_timeout={patience}")
            cursor.close()
    finally:
        raw.close()
