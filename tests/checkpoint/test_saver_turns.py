"""Writers of one SQLite file share commits; each operation is still whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.transactions import Job
from deltamem_agents.checkpoint.turns import Turns
from deltamem_agents.errors import (
    ConflictError,
    SerializationError,
    StorageBusyError,
    StorageFullError,
)
from tests.checkpoint.helpers import checkpoint, config, put, values_of


@contextmanager
def _all_wait(saver: SQLAlchemySaver, count: int) -> Iterator[None]:
    """Nobody's turn comes until so many writers wait."""
    turns = saver._database._turns
    with turns.lock:
        yield
        end = time.monotonic() + 30
        while len(turns._queue.waiting) < count:
            assert time.monotonic() < end, "the writers did not come"
            time.sleep(0.001)


def _at_once(saver: SQLAlchemySaver, calls: list[Callable[[], Any]]) -> list[Any]:
    """Run all calls in threads that wait for the same turn; their results or errors."""
    found: list[Any] = [None] * len(calls)

    def work(place: int) -> None:
        try:
            found[place] = calls[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(calls))]
    with _all_wait(saver, len(calls)):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def _count_transactions(saver: SQLAlchemySaver, monkeypatch: pytest.MonkeyPatch) -> list[Job[Any]]:
    begun: list[Job[Any]] = []
    once = saver._database._once

    def counted(engine: Any, statements: Any, job: Job[Any]) -> Any:
        if job.write:
            begun.append(job)
        return once(engine, statements, job)

    monkeypatch.setattr(saver._database, "_once", counted)
    return begun


def test_writers_that_wait_share_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        begun = _count_transactions(saver, monkeypatch)
        calls = [lambda step=step: put(saver, config(f"t{step}"), {"x": step}) for step in range(9)]
        places = _at_once(saver, calls)
        assert [values_of(saver, place) for place in places] == [{"x": n} for n in range(9)]
        assert len(begun) == 1


def test_more_writers_than_one_commit_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltamem_agents.checkpoint.turns.MOST", 4)
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        begun = _count_transactions(saver, monkeypatch)
        calls = [lambda step=step: put(saver, config(f"t{step}"), {"x": step}) for step in range(9)]
        places = _at_once(saver, calls)
        assert [values_of(saver, place) for place in places] == [{"x": n} for n in range(9)]
        assert len(begun) == 3


def test_the_error_of_one_writer_is_its_own(tmp_path: Path) -> None:
    """A stale fence among five that are carried out together: the other four are stored."""
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        stale = saver.fence(config("fenced"))
        newest = saver.fence(config("fenced"))
        places = [config("a"), stale, config("b"), newest, config("c")]
        found = _at_once(
            saver, [lambda place=place: put(saver, place, {"x": "v" * 600}) for place in places]
        )
        assert isinstance(found[1], ConflictError)
        listed = {entry.config["configurable"]["checkpoint_id"] for entry in saver.list(None)}
        assert listed == {found[number]["configurable"]["checkpoint_id"] for number in (0, 2, 3, 4)}
        assert saver.stats().blobs == 1


def test_another_process_that_holds_the_file_keeps_all_of_them_out_once(tmp_path: Path) -> None:
    """Each by itself after that would wait `busy_timeout` again."""
    with SQLAlchemySaver(tmp_path / "a.db", busy_timeout=0.5) as saver:
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        calls = [lambda step=step: put(saver, config(f"t{step}"), {"x": 1}) for step in range(6)]
        found = _at_once(saver, calls)
        assert [type(entry) for entry in found] == [StorageBusyError] * 6
        assert len({str(entry) for entry in found}) == 1
        assert len({id(entry) for entry in found}) == 6, "each thread raises an error of its own"
        assert not [entry for entry in found if entry.__context__ or entry.__cause__]
        other.execute("ROLLBACK")
        other.close()
        assert list(saver.list(None)) == []
        assert not saver._database._turns._queue.waiting
        assert values_of(saver, put(saver, config(), {"x": 2})) == {"x": 2}


def test_what_does_not_fit_is_refused_and_the_rest_stored(tmp_path: Path) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        before = put(saver, config(), {"x": 1})
        pages = saver.stats().database_bytes // 2048 + 8

        def limit(connection: Any, record: object) -> None:
            connection.execute(f"PRAGMA max_page_count={pages}")

        event.listen(saver.engine, "connect", limit)
        saver._database.connections.drop_all()
        values = [{"x": "small"}, {"x": os.urandom(200_000)}, {"x": "small too"}]
        found = _at_once(saver, [lambda value=value: put(saver, before, value) for value in values])
        assert isinstance(found[1], StorageFullError)
        assert [values_of(saver, found[place])["x"] for place in (0, 2)] == ["small", "small too"]


async def test_async_writers_share_commits_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SQLAlchemySaver(tmp_path / "a.db") as saver:
        await saver.acontext()
        begun = _count_transactions(saver, monkeypatch)
        with _all_wait(saver, 8):
            waiting = [
                asyncio.ensure_future(
                    saver.aput(
                        config(f"t{step}"), checkpoint({"x": step}), {"source": "loop"}, {"x": "1"}
                    )
                )
                for step in range(8)
            ]
            await asyncio.sleep(0)
        places = await asyncio.gather(*waiting)
        found = [await saver.aget_tuple(place) for place in places]
        assert [one and one.checkpoint["channel_values"] for one in found] == [
            {"x": step} for step in range(8)
        ]
        assert len(begun) == 1


def test_a_value_that_cannot_be_stored_never_waits(tmp_path: Path) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        with pytest.raises(SerializationError):
            put(saver, config(), {"x": object()})
        assert not saver._database._turns._queue.waiting


def _carry_out(job: Job[Any]) -> Any:
    return job.operation(None)  # type: ignore[arg-type]


def _job(name: str, done: list[str]) -> Job[Any]:
    return Job(lambda session: done.append(name) or name, write=True)


@contextmanager
def _other_waits(turns: Turns, done: list[str]) -> Iterator[None]:
    """Another thread's operation waits for the turn, and is carried out after it."""
    call = (_job("other", done), _carry_out)
    other = threading.Thread(target=turns.run, args=call, daemon=True)
    with turns.lock:
        other.start()
        while not turns._queue.waiting:
            time.sleep(0.001)
        yield
    other.join(30)
    assert not other.is_alive()
    assert not turns._queue.waiting


def test_an_interrupt_takes_its_own_operation_along_and_no_other() -> None:
    """It hits whoever has the turn; the others' operations wait for the next."""
    turns, done = Turns(), []

    def interrupted(job: Job[Any]) -> Any:
        raise KeyboardInterrupt

    with _other_waits(turns, done), pytest.raises(KeyboardInterrupt):
        turns.run(_job("own", done), interrupted)
    assert done == ["other"]


@pytest.mark.parametrize("taken", [1, 2])
def test_an_interrupt_while_operations_are_taken_loses_none_of_others(taken: int) -> None:
    """The other's was taken and is in no list yet (1), or is in that of the interrupted (2)."""
    turns, done = Turns(), []

    class Interrupting(deque[Any]):
        left = taken

        def popleft(self) -> Any:
            call = super().popleft()
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return call

    turns._queue.waiting = Interrupting()
    with _other_waits(turns, done), pytest.raises(KeyboardInterrupt):
        turns.run(_job("own", done), _carry_out)
    assert done == ["other"]


def _in_child(turns: Turns, names: list[str], prepare: Callable[[], None]) -> int:
    """How a child ended whose threads each run an operation, and nothing else is carried out."""
    child = os.fork()
    if child != 0:
        return os.waitpid(child, 0)[1]
    signal.alarm(20)  # a deadlock ends the child
    done: list[str] = []
    prepare()
    threads = [
        threading.Thread(target=lambda name=name: turns.run(_job(name, done), _carry_out))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0 if sorted(done) == names else 1)


def test_a_fork_takes_neither_the_lock_nor_what_waits_along() -> None:
    turns, done = Turns(), []
    with _other_waits(turns, done):
        assert _in_child(turns, ["child's"], lambda: None) == 0
    assert done == ["other"]


def test_no_thread_of_a_fork_meets_the_parents_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes while another one makes the child's own."""
    turns, done = Turns(), []
    make = threading.RLock

    def slow() -> Any:
        time.sleep(0.5)
        return make()

    def prepare() -> None:
        names = SimpleNamespace(RLock=slow)
        monkeypatch.setattr("deltamem_agents.checkpoint.turns.threading", names)

    with _other_waits(turns, done):
        assert _in_child(turns, ["one", "two"], prepare) == 0
    assert done == ["other"]
