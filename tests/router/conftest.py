"""Stores on each of the three databases, and on PostgreSQL with pgvector: one tenant a test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import URL, create_engine, make_url, text

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore, HybridRouter
from tests.router.private_server import PACKAGE, installed, private_server

BACKENDS = ("sqlite", "postgresql", "mariadb", "pgvector")
_SERVERS = {
    "postgresql": ("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test"),
    "mariadb": ("DELTAMEM_TEST_MARIADB_URL", "mariadb+pymysql://root@127.0.0.1/test"),
}
OpenSaver = Callable[..., SQLAlchemySaver]


@pytest.fixture(scope="session")
def pgvector_server() -> Iterator[str]:
    """The URL of a server that has pgvector; without its package the tests skip, not with CI."""
    if not installed():
        message = f"no package {PACKAGE}: pip install 'deltamem-agents[dev]'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with private_server() as url:
        yield url


@pytest.fixture
def pgvector_url(pgvector_server: str) -> Iterator[str]:
    """An empty database of the server, without the extension."""
    server = make_url(pgvector_server)
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    name = "t_" + uuid.uuid4().hex[:12]
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(scope="session", params=BACKENDS)
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of an empty database; without a server the tests skip, or fail where CI is set."""
    backend = str(request.param)
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('router') / 'facts.db'}"
        return
    if backend == "pgvector":
        server = make_url(request.getfixturevalue("pgvector_server"))
    else:
        variable, default = _SERVERS[backend]
        server = make_url(os.environ.get(variable, default))
    engine = create_engine(
        server, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5}
    )
    name = "router_" + uuid.uuid4().hex[:12]
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except Exception as error:
        engine.dispose()
        message = f"{backend} does not answer: {error}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    url = server.set(database=name)
    if backend == "pgvector":
        make_extension(url)
    yield url.render_as_string(hide_password=False)
    with engine.connect() as connection:
        force = " WITH (FORCE)" if backend != "mariadb" else ""
        connection.execute(text(f"DROP DATABASE {name}{force}"))
    engine.dispose()


def make_extension(url: str | URL, schema: str = "public") -> None:
    """What a database's owner does once."""
    engine = create_engine(url)
    with engine.begin() as connection:
        quoted = engine.dialect.identifier_preparer.quote_identifier(schema)
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
        connection.exec_driver_sql(f"CREATE EXTENSION vector SCHEMA {quoted}")
    engine.dispose()


@pytest.fixture
def open_saver(database: str) -> Iterator[OpenSaver]:
    """Opens savers on the database; closes them afterwards."""
    opened: list[SQLAlchemySaver] = []

    def make(tenant: str = "", **options: object) -> SQLAlchemySaver:
        saver = SQLAlchemySaver(
            database,
            tenant=tenant or "t-" + uuid.uuid4().hex,
            **options,  # type: ignore[arg-type]
        )
        saver.setup()
        opened.append(saver)
        return saver

    yield make
    for saver in opened:
        saver.close()


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def store(open_saver: OpenSaver, request: pytest.FixtureRequest) -> FactStore:
    """A store of a tenant of its own."""
    return FactStore(open_saver(encryption_key=b"0123456789abcdef" if request.param else None))


@pytest.fixture
def router(store: FactStore) -> HybridRouter:
    """A router on that store."""
    return HybridRouter(store)
