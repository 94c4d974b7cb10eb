"""Full disks, dropped connections, other writers: a typed error, and a saver that works again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import (
    ConnectionLostError,
    ReadOnlyStorageError,
    StorageBusyError,
    StorageError,
    StorageFullError,
)
from tests.checkpoint.helpers import checkpoint, config, put, values_of

ROOT = Path(__file__).parents[2]


def test_a_database_that_may_not_grow(tmp_path: Any) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        place = put(saver, config(), {"x": "before " * 100})
        held = saver._database.connections.take(
            saver.engine, saver._database.statements(saver.engine)
        )
        cursor = held.session.raw.cursor()
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count={pages + 3}")
        saver._database.connections.give_back(held)
        with pytest.raises(StorageFullError, match="has room"):
            put(saver, place, {"x": os.urandom(100_000)})
        assert [entry.config for entry in saver.list(None)] == [place]
        assert values_of(saver, put(saver, place, {"x": "after"})) == {"x": "after"}


def test_a_full_disk(tmp_path: Any) -> None:
    """The system refuses to let the file grow, as a full disk does."""
    script = textwrap.dedent("""
        import os, resource, signal, sys
        from deltamem_agents.checkpoint import SQLAlchemySaver
        from deltamem_agents.errors import StorageError
        from tests.checkpoint.helpers import config, put, values_of
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with SQLAlchemySaver(sys.argv[1]) as saver:
            place = put(saver, config(), {"x": "before"})
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
            stored, failed = [place], 0
            for step in range(12):
                try:
                    stored.append(put(saver, stored[-1], {"x": os.urandom(60_000)}))
                except StorageError as error:
                    failed += 1
                    kind = type(error).__name__
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert failed, "the disk was not full"
            assert [entry.config for entry in saver.list(None)] == stored[::-1]
            assert values_of(saver, put(saver, place, {"x": "after"})) == {"x": "after"}
            print(kind)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "StorageFullError"
    assert sqlite3.connect(tmp_path / "a.db").execute("PRAGMA integrity_check").fetchone() == (
        "ok",
    )


@pytest.mark.parametrize(
    ("backend_name", "make"),
    [
        ("postgresql", lambda module: module.errors.DiskFull("no space left on device")),
        ("mariadb", lambda module: module.err.OperationalError(1114, "The table is full")),
    ],
)
def test_a_server_that_is_full(
    database: Callable[[str], str], backend_name: str, make: Callable[[Any], BaseException]
) -> None:
    with SQLAlchemySaver(database(backend_name)) as saver:
        place = put(saver, config(), {"x": "before"})
        module = saver.engine.dialect.loaded_dbapi
        connections = saver._database.connections
        held = connections.take(saver.engine, saver._database.statements(saver.engine))
        real = held.session._cursor

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def execute(self, sql: str, *more: Any) -> Any:
                if "checkpoints" in sql and "INSERT" in sql:
                    raise make(module)
                return real.execute(sql, *more)

        held.session._cursor = Full()
        connections.give_back(held)
        with pytest.raises(StorageFullError):
            put(saver, place, {"x": "too much"})
        assert [entry.config for entry in saver.list(None)] == [place]
        assert values_of(saver, put(saver, place, {"x": "after"})) == {"x": "after"}


def _end_all(saver: SQLAlchemySaver) -> None:
    """The server ends every connection of the saver's to its database."""
    engine = saver.engine
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        else:
            own = connection.scalar(text("SELECT CONNECTION_ID()"))
            for row in connection.execute(
                text("SELECT id FROM information_schema.processlist WHERE db = DATABASE()")
            ).all():
                if row[0] != own:
                    connection.execute(text(f"KILL {int(row[0])}"))


@pytest.mark.parametrize("backend_name", ["postgresql", "mariadb"])
def test_a_dropped_connection(database: Callable[[str], str], backend_name: str) -> None:
    with SQLAlchemySaver(database(backend_name)) as saver:
        place = put(saver, config(), {"x": 1})
        _end_all(saver)
        with pytest.raises(ConnectionLostError, match="database answers"):
            put(saver, place, {"x": 2})
        below = put(saver, place, {"x": 3})
        assert values_of(saver, below) == {"x": 3}
        _end_all(saver)
        with pytest.raises(ConnectionLostError):
            saver.get_tuple(place)
        assert values_of(saver, below) == {"x": 3}


@pytest.mark.parametrize("backend_name", ["postgresql", "mariadb"])
def test_connections_that_rested_are_asked_first(
    database: Callable[[str], str], backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a quiet time a restart of the server is not noticed at all."""
    monkeypatch.setattr("deltamem_agents.checkpoint.connections.IDLE_SECONDS", 0.0)
    with SQLAlchemySaver(database(backend_name)) as saver:
        place = put(saver, config(), {"x": 1})
        _end_all(saver)
        assert values_of(saver, put(saver, place, {"x": 2})) == {"x": 2}


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "mariadb+asyncmy"])
async def test_a_dropped_async_connection(database: Callable[[str], str], driver: str) -> None:
    url = database(driver.split("+", maxsplit=1)[0])
    async with SQLAlchemySaver(driver + url[url.index("://") :]) as saver:
        made = checkpoint({"x": 1})
        place = await saver.aput(config(), made, {"source": "loop"}, {"x": "1"})
        _end_all(saver)
        with pytest.raises(ConnectionLostError):
            await saver.aput_writes(place, [("x", 1)], "task")
        await saver.aput_writes(place, [("x", 2)], "task")
        found = await saver.aget_tuple(place)
        assert found is not None
        assert found.pending_writes == [("task", "x", 2)]


def test_a_server_that_is_not_there() -> None:
    saver = SQLAlchemySaver("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(ConnectionLostError):
        saver.setup()
    saver.close()
    folder = SQLAlchemySaver("/no/such/folder/a.db")
    with pytest.raises(ConnectionLostError, match="can be opened"):
        folder.setup()
    folder.close()


def test_another_process_that_writes_for_too_long(tmp_path: Any) -> None:
    with SQLAlchemySaver(tmp_path / "a.db", busy_timeout=0.05) as saver:
        place = put(saver, config(), {"x": 1})
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusyError, match="another writer"):
            put(saver, place, {"x": 2})
        assert values_of(saver, place) == {"x": 1}
        other.execute("ROLLBACK")
        other.close()
        put(saver, place, {"x": 3})


def test_a_database_that_may_only_be_read(tmp_path: Any) -> None:
    path = tmp_path / "a.db"
    with SQLAlchemySaver(path) as saver:
        place = put(saver, config(), {"x": 1})
        held = saver._database.connections.take(
            saver.engine, saver._database.statements(saver.engine)
        )
        held.session.raw.cursor().execute("PRAGMA query_only=ON")
        saver._database.connections.give_back(held)
        with pytest.raises(ReadOnlyStorageError):
            put(saver, place, {"x": 2})
        assert values_of(saver, place) == {"x": 1}


@pytest.mark.parametrize("backend_name", ["postgresql", "mariadb"])
def test_a_collector_and_a_put_of_the_same_content(
    database: Callable[[str], str], backend_name: str
) -> None:
    """The blob that one thread refers to anew is the one that another is about to collect."""
    with SQLAlchemySaver(database(backend_name)) as saver:
        content = "contested content " * 50
        failures: list[BaseException] = []

        def work(name: str) -> None:
            try:
                for _ in range(15):
                    place = put(saver, config(name), {"x": content})
                    assert values_of(saver, place) == {"x": content}
                    saver.delete_thread(name)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(f"t{name}",)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert saver.stats().blobs == 0


_STOP = {
    "sqlite": "CREATE TRIGGER stop BEFORE INSERT ON channels WHEN new.channel = 'last' "
    "BEGIN SELECT RAISE(ABORT, 'stop'); END",
    "postgresql": "ALTER TABLE channels ADD CONSTRAINT stop CHECK (channel <> 'last')",
    "mariadb": "ALTER TABLE channels ADD CONSTRAINT stop CHECK (channel <> 'last')",
}


def test_a_put_that_fails_half_way_leaves_nothing(backend: str, fresh_url: str) -> None:
    """Head and contents are in when the last channel is refused."""
    with SQLAlchemySaver(fresh_url) as saver:
        place = put(saver, config(), {"x": "long " * 199})
        with saver.engine.begin() as connection:
            connection.exec_driver_sql(_STOP[backend])
        with pytest.raises(StorageError, match="stop"):
            put(saver, place, {"first": "other " * 199, "last": "more " * 199})
        assert (saver.stats().blobs, saver.stats().channels) == (1, 1)
        assert [entry.config for entry in saver.list(None)] == [place]
        assert values_of(saver, put(saver, place, {"first": "after"})) == {"first": "after"}


def test_events_of_a_given_engine_are_left_alone(tmp_path: Any) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    with SQLAlchemySaver(engine) as saver:
        put(saver, config(), {"x": 1})
    assert not event.contains(engine, "begin", lambda connection: None)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
    engine.dispose()
