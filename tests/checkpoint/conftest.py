"""Databases of the tests' own: one SQLite file, PostgreSQL schema or MariaDB database a test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url, text

BACKENDS = ("sqlite", "postgresql", "mariadb")
_SERVERS = {
    "postgresql": ("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test"),
    "mariadb": ("DELTAMEM_TEST_MARIADB_URL", "mariadb+pymysql://root@127.0.0.1/test"),
}
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


def make_database(backend: str, folder: Path) -> tuple[str, Callable[[], None]]:
    """A new database; its URL, and what drops it."""
    require(backend)
    name = "dm_" + uuid.uuid4().hex[:12]
    if backend == "sqlite":
        return f"sqlite:///{folder / name}.db", lambda: None
    server = server_url(backend)

    def execute(statement: str) -> None:
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    execute(f"CREATE DATABASE {name}")
    force = " WITH (FORCE)" if backend == "postgresql" else ""
    url = server.set(database=name).render_as_string(hide_password=False)
    return url, lambda: execute(f"DROP DATABASE {name}{force}")


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
def database(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes as many empty databases as a test wants."""
    drops = []

    def make(backend: str) -> str:
        made, drop = make_database(backend, tmp_path)
        drops.append(drop)
        return made

    yield make
    for drop in drops:
        drop()
