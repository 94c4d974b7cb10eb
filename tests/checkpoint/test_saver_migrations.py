"""The schema: made once by whoever comes first, upgraded in steps, never somebody else's."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, select, text

from deltamem_agents.checkpoint import SQLAlchemySaver, migrations
from deltamem_agents.checkpoint.fact_schema import make_fact_schema
from deltamem_agents.checkpoint.fact_tables import fact_tables
from deltamem_agents.errors import SchemaVersionError, StorageError
from deltamem_agents.router import FactStore
from tests.checkpoint.helpers import config, put, values_of

ROOT = Path(__file__).parents[2]
START = """
import sys
from deltamem_agents.checkpoint import SQLAlchemySaver
sys.stdin.readline()
saver = SQLAlchemySaver(sys.argv[1]); saver.setup(); saver.close()
print("done")
"""


def _versions(saver: SQLAlchemySaver) -> list[int]:
    table = saver._tables.migrations
    with saver.engine.connect() as connection:
        return list(connection.execute(select(table.c.version).order_by(table.c.version)).scalars())


RELEASED = (
    "checkpoints, channels, blobs, writes, memory_states",
    "facts",
    "facts are indexed at once",
    "facts are hashed without their scope",
    "tombstones know their tenant",
    "words of facts carry their scope",
    "plain tenants have a row",
)


def test_steps_are_only_ever_appended(url: str) -> None:
    """Databases out there recorded these, in this order; a change of one would not reach them."""
    assert tuple(name for name, _ in migrations.STEPS)[: len(RELEASED)] == RELEASED
    with SQLAlchemySaver(url) as saver, saver.engine.connect() as connection:
        table = saver._tables.migrations
        recorded = connection.execute(select(table.c.version, table.c.name).order_by("version"))
        assert [tuple(row) for row in recorded][: len(RELEASED)] == list(enumerate(RELEASED, 1))


def _shape(saver: SQLAlchemySaver) -> dict[str, set[str]]:
    held = inspect(saver.engine)
    return {
        name: {column["name"] for column in held.get_columns(name)}
        for name in held.get_table_names()
        if not name.startswith("fact_words")
    }


@pytest.mark.parametrize("version", range(1, len(migrations.STEPS)))
def test_a_database_of_any_version_becomes_as_a_new_one(
    version: int, fresh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = migrations.STEPS
    monkeypatch.setattr(migrations, "STEPS", released[:version])
    with SQLAlchemySaver(fresh_url) as saver:
        place = put(saver, config(), {"x": "kept " * 200})
        if version > 1 and version < 5:  # as it was before step 5 knew of it
            with saver.engine.begin() as connection:
                connection.execute(text("ALTER TABLE fact_tombstones DROP COLUMN tenant"))
    monkeypatch.setattr(migrations, "STEPS", released)
    with SQLAlchemySaver(fresh_url) as saver:
        assert values_of(saver, place) == {"x": "kept " * 200}
        shape = _shape(saver)
        facts = fact_tables().metadata.sorted_tables
        expected = [*saver._tables.metadata.sorted_tables, *facts]
        assert shape == {table.name: set(table.columns.keys()) for table in expected}
        store = FactStore(saver)
        scope = store.hear([{"role": "user", "content": "My port is 4711."}], store.branch("t"))
        store.forget(scope, fact_ids=[fact.fact_id for fact in store.facts(scope)])


def test_processes_that_start_at_once_make_one_schema(fresh_url: str) -> None:
    import os

    workers = [
        subprocess.Popen(
            [sys.executable, "-c", START, fresh_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate(timeout=120)[0].strip() for worker in workers] == ["done"] * 3
    with SQLAlchemySaver(fresh_url) as saver:
        assert _versions(saver) == list(range(1, len(migrations.STEPS) + 1))
        assert values_of(saver, put(saver, config(), {"x": 1})) == {"x": 1}


def test_a_step_that_fails_is_run_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(connection: Any, tables: Any) -> None:
        connection.execute(text("CREATE TABLE half_done (x INTEGER)"))
        raise RuntimeError("power cut")

    def works(connection: Any, tables: Any) -> None:
        connection.execute(text("CREATE TABLE IF NOT EXISTS half_done (x INTEGER)"))

    released = migrations.STEPS
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": 1})
    monkeypatch.setattr(migrations, "STEPS", (*released, ("later", fails)))
    with pytest.raises(RuntimeError, match="power cut"):
        SQLAlchemySaver(url).setup()
    monkeypatch.setattr(migrations, "STEPS", (*released, ("later", works)))
    with SQLAlchemySaver(url) as saver:
        assert _versions(saver) == list(range(1, len(released) + 2))
        assert inspect(saver.engine).has_table("half_done")
        assert values_of(saver, place) == {"x": 1}
    monkeypatch.setattr(migrations, "STEPS", released)
    with pytest.raises(SchemaVersionError, match="up to version"):
        SQLAlchemySaver(url).setup()


_OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = CAST(:index AS regclass)"
_WAITING = "SELECT gin_clean_pending_list(CAST(:index AS regclass))"  # pages that waited


@pytest.mark.parametrize("place", [{}, {"prefix": "p_"}, {"schema": "memory", "prefix": "p_"}])
def test_a_database_of_version_2_gets_an_index_without_a_waiting_list(
    database: Callable[..., str], monkeypatch: pytest.MonkeyPatch, place: dict[str, Any]
) -> None:
    url = database("postgresql", fresh=True)
    if "schema" in place:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA memory"))
        engine.dispose()
    tables = fact_tables(place.get("schema"), place.get("prefix", ""))
    index = {"index": tables.named("facts_words")}
    released = migrations.STEPS
    monkeypatch.setattr(migrations, "STEPS", released[:2])
    with SQLAlchemySaver(url, **place) as saver, saver.engine.begin() as connection:
        assert connection.scalar(text(_OPTIONS), index) is None  # step 2 is as it was released
        row: dict[str, Any] = dict.fromkeys((c.name for c in tables.facts.columns), "x")
        numbers = {"ordinal": 0, "authority": 3, "recorded_at": 0.0, "body": b"{}"}
        del row["number"]
        connection.execute(tables.facts.insert().values({**row, **numbers, "words": "it waits"}))
    monkeypatch.setattr(migrations, "STEPS", released)
    with SQLAlchemySaver(url, **place) as saver, saver.engine.begin() as connection:
        assert _versions(saver) == list(range(1, len(released) + 1))
        assert connection.scalar(text(_OPTIONS), index) == ["fastupdate=off"]
        assert connection.scalar(text(_WAITING), index) == 0


def test_facts_without_the_saver_get_the_same_index(database: Callable[..., str]) -> None:
    engine = create_engine(database("postgresql", fresh=True))
    FactStore(SimpleNamespace(engine=engine, tenant="t"))
    with engine.connect() as connection:
        found = connection.scalar(text(_OPTIONS), {"index": "facts_words"})
    assert found == ["fastupdate=off"]
    engine.dispose()


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
def test_facts_without_the_saver_are_made_by_one_at_a_time(
    database: Callable[..., str], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(database(backend, fresh=True))
    inside, most, failures = [0], [0], []

    def watched(*parts: Any) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.3)  # time for the others to come in
        try:
            make_fact_schema(*parts)
        finally:
            inside[0] -= 1

    monkeypatch.setattr("deltamem_agents.router.store.make_fact_schema", watched)

    def work(number: int) -> None:
        try:
            store = FactStore(SimpleNamespace(engine=engine, tenant="t"))
            scope = store.branch(f"t{number}")
            store.record("My port is 4711.", scope)
            assert [fact.value for fact in store.facts(scope)] == ["4711"]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert most == [1]
    engine.dispose()


def test_tables_of_another_saver_are_left_alone(fresh_url: str) -> None:
    engine = create_engine(fresh_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE checkpoints (thread_id INTEGER, notes TEXT)"))
        connection.execute(text("INSERT INTO checkpoints VALUES (1, 'theirs')"))
    with pytest.raises(SchemaVersionError, match="prefix"):
        SQLAlchemySaver(fresh_url).setup()
    assert not inspect(engine).has_table("blobs")
    with SQLAlchemySaver(fresh_url, prefix="deltamem_") as saver:
        assert values_of(saver, put(saver, config(), {"x": 1})) == {"x": 1}
        saver.delete_thread("t")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT notes FROM checkpoints")).all() == [("theirs",)]
    engine.dispose()


def test_prefixes_are_stores_of_their_own(url: str) -> None:
    with SQLAlchemySaver(url, prefix="a_") as one, SQLAlchemySaver(url, prefix="b_") as two:
        put(one, config(), {"x": "one"})
        put(two, config(), {"x": "two"})
        assert values_of(one, config()) == {"x": "one"}
        one.delete_thread("t")
        assert values_of(two, config()) == {"x": "two"}
        assert two.stats().checkpoints == 1
        two.vacuum()


def test_a_schema_of_its_own(database: Callable[..., str]) -> None:
    url = database("postgresql", fresh=True)
    engine = create_engine(url)
    with SQLAlchemySaver(url, schema="memory") as saver:
        place = put(saver, config(), {"x": "in a schema " * 40})
        saver.put_writes(place, [("x", 1)], "task")
        assert values_of(saver, place) == {"x": "in a schema " * 40}
        saver.copy_thread("t", "u")
        saver.prune(["t"])
        saver.vacuum()
        saver.delete_thread("u")
    held = inspect(engine)
    assert "checkpoints" in held.get_table_names(schema="memory")
    assert held.get_table_names(schema="public") == []
    engine.dispose()


def test_a_schema_that_is_there_needs_no_right_to_make_one(database: Callable[..., str]) -> None:
    url = database("postgresql", fresh=True)
    engine = create_engine(url)
    role = "dm_" + uuid.uuid4().hex[:8]
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"CREATE SCHEMA memory AUTHORIZATION {role}"))
    try:
        own = engine.url.set(username=role)
        with SQLAlchemySaver(own, schema="memory") as saver:
            assert values_of(saver, put(saver, config(), {"x": 1})) == {"x": 1}
        with pytest.raises(StorageError, match="permission denied"):
            SQLAlchemySaver(own, schema="other").setup()
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role} CASCADE"))
            connection.execute(text(f"DROP ROLE {role}"))
        engine.dispose()


def test_a_lost_record_of_the_steps_is_no_reason_to_overwrite(tmp_path: Any) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        place = put(saver, config(), {"x": 1})
        with saver.engine.begin() as connection:
            connection.execute(text("DELETE FROM schema_migrations"))
    with SQLAlchemySaver(tmp_path / "a.db") as saver:  # every step can be run again
        assert values_of(saver, place) == {"x": 1}
        with saver.engine.begin() as connection:
            connection.execute(text("UPDATE schema_migrations SET version = -version"))
    with pytest.raises(StorageError):
        SQLAlchemySaver(tmp_path / "a.db").setup()
