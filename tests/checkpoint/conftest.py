"""Databases of the tests' own: one SQLite file, PostgreSQL schema or MariaDB database a test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, func, inspect, make_url, select, text

from deltamem_agents.checkpoint.fact_tables import fact_tables
from deltamem_agents.checkpoint.migrations import STEPS
from deltamem_agents.checkpoint.tables import Tables

BACKENDS = ("sqlite", "postgresql", "mariadb")
_SERVERS = {
    "postgresql": ("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test"),
    "mariadb": ("DELTAMEM_TEST_MARIADB_URL", "mariadb+pymysql://root@127.0.0.1/test"),
}
_KEPT: dict[str, list[URL]] = {}  # databases of the servers, empty, to be used again
_REACHED: dict[str, str] = {}  # backend -> why it does not answer, or ""


def server_url(backend: str) -> URL:
    """Where the tests' server answers."""
    variable, default = _SERVERS[backend]
    return make_url(os.environ.get(variable, default))


def require(backend: str) -> None:
    """Skip without a server; with CI set, fail."""
    if backend == "sqlite":
        return
    if backend not in _REACHED:
        engine = create_engine(server_url(backend), connect_args={"connect_timeout": 5})
        try:
            with engine.connect():
                _REACHED[backend] = ""
        except Exception as error:
            _REACHED[backend] = f"{type(error).__name__}: {error}"
        finally:
            engine.dispose()
    if _REACHED[backend]:
        message = f"{backend} does not answer: {_REACHED[backend]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def _execute(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _new(backend: str) -> URL:
    server = server_url(backend)
    name = "dm_" + uuid.uuid4().hex[:12]
    _execute(server, f"CREATE DATABASE {name}")
    return server.set(database=name)


def _drop(url: URL) -> None:
    backend = url.get_backend_name()
    force = " WITH (FORCE)" if backend == "postgresql" else ""
    _execute(server_url(backend), f"DROP DATABASE {url.database}{force}")


def _emptied(url: URL) -> bool:
    """Empty a database that has our tables as they were made, and only these; else say so."""
    engine = create_engine(url)
    metadata = [Tables().metadata, fact_tables().metadata]
    tables = [table for entry in metadata for table in reversed(entry.sorted_tables)]
    try:
        with engine.begin() as connection:
            if set(inspect(connection).get_table_names()) != {table.name for table in tables}:
                return False
            steps = Tables().migrations
            count = connection.scalar(select(func.count()).select_from(steps))
            for table in tables:
                if table.name != steps.name:
                    connection.execute(table.delete())
            return count == len(STEPS)
    finally:
        engine.dispose()


def make_database(
    backend: str, folder: Path, *, fresh: bool = False
) -> tuple[str, Callable[[], None]]:
    """An empty database; its URL, and what gives it back.

    Servers take long to make one: those that were left as they should be are used again, unless
    it is to be `fresh` (without our tables too).
    """
    require(backend)
    if backend == "sqlite":
        return f"sqlite:///{folder / ('dm_' + uuid.uuid4().hex[:12])}.db", lambda: None
    kept = _KEPT.setdefault(backend, [])
    url = kept.pop() if kept and not fresh else _new(backend)

    def give_back() -> None:
        if _emptied(url):
            kept.append(url)
        else:
            _drop(url)

    return url.render_as_string(hide_password=False), give_back


@pytest.fixture(scope="session", autouse=True)
def _drop_kept_databases() -> Iterator[None]:
    yield
    for urls in _KEPT.values():
        while urls:
            _drop(urls.pop())


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the three databases."""
    return str(request.param)


@pytest.fixture
def url(backend: str, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    made, drop = make_database(backend, tmp_path)
    yield made
    drop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Makes as many empty databases as a test wants."""
    drops = []

    def make(backend: str, fresh: bool = False) -> str:
        made, drop = make_database(backend, tmp_path, fresh=fresh)
        drops.append(drop)
        return made

    yield make
    for drop in drops:
        drop()


@pytest.fixture
def fresh_url(backend: str, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    made, drop = make_database(backend, tmp_path, fresh=True)
    yield made
    drop()
