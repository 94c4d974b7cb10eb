"""Upkeep: threads in numbers, and an honest word on what SQLite's log still holds."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from deltamem_agents.checkpoint import SQLAlchemySaver, engines, upkeep
from deltamem_agents.checkpoint.rewriting import Rewrite, rewrite_checkpoints
from deltamem_agents.errors import StorageBusyError
from tests.checkpoint.helpers import bytes_of, checkpoint, config, memory, put


def _filled(saver: SQLAlchemySaver) -> dict[str, str]:
    """Three threads; the newest checkpoint id of each."""
    newest = {}
    for name, count in (("a", 1), ("b", 3), ("a", 1), ("c\u00e9", 2)):
        place = config(name)
        for step in range(count):
            values = {"n": step, "m": memory(step)} if name == "b" else {"n": step}
            place = put(saver, place, values)
        newest[name] = place["configurable"]["checkpoint_id"]
    put(saver, config("b", namespace="child"), {"n": 0})
    return newest


def test_threads_are_counted_and_the_last_changed_comes_first(url: str) -> None:
    with SQLAlchemySaver(url) as saver, SQLAlchemySaver(url, tenant="other") as other:
        newest = _filled(saver)
        put(other, config("not ours"), {"n": 1})
        records = {one.thread_id: one for one in saver.threads()}
        counts = {name: (one.checkpoints, one.memories) for name, one in records.items()}
        assert counts == {"a": (2, 0), "b": (4, 3), "c\u00e9": (2, 0)}
        assert {name: records[name].newest for name in ("a", "c\u00e9")} == {
            name: newest[name] for name in ("a", "c\u00e9")
        }
        assert all(one.created <= one.changed for one in records.values())
        assert saver.threads()[0].thread_id == "b"
        saver.prune(["b"])
        assert {one.thread_id: one.checkpoints for one in saver.threads()}["b"] == 2
        assert [one.thread_id for one in other.threads()] == ["not ours"]


async def test_threads_from_a_coroutine(url: str) -> None:
    async with SQLAlchemySaver(url) as saver:
        _filled(saver)
        assert await saver.athreads() == saver.threads()


def test_threads_are_listed_without_their_contents(url: str) -> None:
    """Damage every value: the list of threads does not notice, since it reads none."""
    with SQLAlchemySaver(url) as saver:
        put(saver, config("t"), {"x": "long " * 999})
        asked: list[str] = []
        event.listen(
            saver.engine,
            "before_cursor_execute",
            lambda connection, cursor, statement, *more: asked.append(statement),
        )
        assert [one.thread_id for one in saver.threads()] == ["t"]
        queries = [statement for statement in asked if "SELECT" in statement]
        assert len(queries) == 2
        for word in ("body", "metadata", "blobs", "channels", "data"):
            assert not any(word in statement for statement in queries)


def _reader(path: Path) -> sqlite3.Connection:
    """Another process's connection that reads the state as it is now, and stays there."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM checkpoints").fetchone()
    return connection


def test_what_a_reader_still_sees_is_not_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log cannot be cut while somebody reads from it; the report says so, then purge helps."""
    monkeypatch.setattr(engines.truncate_log, "__defaults__", (0.2,))
    path, url = tmp_path / "a.db", f"sqlite:///{tmp_path}/a.db"
    with SQLAlchemySaver(path) as saver:
        first = put(saver, config(), {"x": "canary " * 99})
        put(saver, first, {"x": "later"})
        other = _reader(path)
        with caplog.at_level(logging.WARNING):
            assert saver.retain("t", keep_last=1).purged is False
        assert "write-ahead log" in caplog.text
        assert b"canary" in bytes_of(url)
        assert saver.purge() is False
        other.execute("COMMIT")
        other.close()
        assert saver.purge() is True
        assert b"canary" not in bytes_of(url)


def test_a_rewrite_says_whether_the_old_content_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.truncate_log, "__defaults__", (0.2,))
    path = tmp_path / "a.db"
    with SQLAlchemySaver(path) as saver:
        made = checkpoint({"x": "canary"})
        saver.put(config(), made, {"source": "loop"}, {"x": "1"})
        clean: Any = {**made, "channel_values": {"x": "clean"}}
        rewrite = Rewrite(config(), clean, {"source": "loop"})
        other = _reader(path)
        assert rewrite_checkpoints(saver, [rewrite]).purged is False
        other.execute("COMMIT")
        assert rewrite_checkpoints(saver, [rewrite]).purged is True
        other.close()
        assert b"canary" not in bytes_of(f"sqlite:///{path}")


@pytest.mark.parametrize("encryption_key", [None, b"0" * 32], ids=["decrypt", "encrypt"])
async def test_new_keys_and_a_vacuum_say_whether_the_old_bytes_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encryption_key: bytes | None
) -> None:
    monkeypatch.setattr(engines.truncate_log, "__defaults__", (0.2,))
    path = tmp_path / "a.db"
    async with SQLAlchemySaver(path) as saver:
        put(saver, config(), {"x": "canary " * 99})
        other = _reader(path)
        assert saver.rekey(encryption_key) is False
        assert await saver.arekey(encryption_key) is False
        assert saver.vacuum().purged is False
        assert (await saver.avacuum()).purged is False
        other.execute("COMMIT")
        assert saver.vacuum().purged is True
        assert (await saver.avacuum()).purged is True
        assert saver.rekey(encryption_key) is True
        assert await saver.arekey(encryption_key) is True
        other.close()


def test_the_log_waits_for_another_checkpoint_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy answer is tried again until the time is over."""
    path = tmp_path / "a.db"
    with SQLAlchemySaver(path) as saver:
        put(saver, config(), {"x": "x" * 5000})
        other = _reader(path)
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr(engines.time, "sleep", nap)
        with saver.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=1")
        assert engines.truncate_log(saver.engine, 30.0) is True
        assert len(naps) == 3
        other.close()


def test_purge_on_the_servers_has_nothing_to_do(database: Callable[[str], str]) -> None:
    for backend in ("postgresql", "mariadb"):
        with SQLAlchemySaver(database(backend)) as saver:
            assert saver.purge() is True


def test_the_saver_needs_neither_torch_nor_a_model(tmp_path: Path) -> None:
    """A memory is stored, listed and read again in a process that never loads them."""
    script = textwrap.dedent("""
        import sys
        from deltamem_agents.checkpoint import SQLAlchemySaver
        from tests.checkpoint.helpers import config, memory, put, values_of
        with SQLAlchemySaver(sys.argv[1]) as saver:
            place = put(saver, config(), {"m": memory(1)})
            assert values_of(saver, place)["m"] == saver.memory_at(place) == memory(1)
            assert [one.tokens_written for one in saver.memories("t")] == [7]
        print(sorted({"torch", "transformers", "peft"} & set(sys.modules)))
    """)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_vacuum_of_mariadb_does_not_hold_writers_up(
    database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server lets writers wait for who waits for an open transaction: 50 s before."""
    monkeypatch.setattr(upkeep, "_TRIES", 2)
    url = database("mariadb")
    engine = create_engine(url)
    with SQLAlchemySaver(url) as saver, engine.connect() as other:
        first = put(saver, config("t"), {"x": "one"})
        other.execute(text("SELECT count(*) FROM checkpoints"))  # holds the table until it ends
        with pytest.raises(StorageBusyError, match="checkpoints in use"):
            saver.vacuum()
        assert saver.get_tuple(first) is not None
        put(saver, config("t"), {"x": "two"})
        other.rollback()
        saver.vacuum()
        with saver.engine.connect() as after:
            assert after.scalar(text("SELECT @@innodb_lock_wait_timeout")) > 1
    engine.dispose()
