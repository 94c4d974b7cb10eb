"""`kill -9` at random moments: nothing acknowledged is lost, no half of anything is seen."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, make_url, select

from deltamem_agents.checkpoint import SQLAlchemySaver
from tests.checkpoint.helpers import config
from tests.checkpoint.kill_worker import put, value_of

WORKER = Path(__file__).with_name("kill_worker.py")
ROOT = Path(__file__).parents[2]
KINDS = ("puts", "prunes", "copies", "together", "migrations")


@pytest.fixture(scope="module")
def workers() -> Iterator[subprocess.Popen[str]]:
    """The process that forks the workers."""
    server = subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    yield server
    server.stdin.close()
    server.wait(30)
    server.stdout.close()


def _kill(
    workers: subprocess.Popen[str], url: str, what: str, seed: int, dice: random.Random, file: Path
) -> list[list[str]]:
    """Start a worker, kill it at a random moment; what it had acknowledged."""
    assert workers.stdin is not None
    assert workers.stdout is not None
    workers.stdin.write(f"{url} {what} {seed} {file}\n")
    workers.stdin.flush()
    process = int(workers.stdout.readline())
    while not (file.exists() and file.stat().st_size):
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.25))
    try:
        os.kill(process, signal.SIGKILL)
        while True:
            os.kill(process, 0)
            time.sleep(0.002)
    except ProcessLookupError:
        pass
    # A line that was cut short was not acknowledged.
    return [
        line.split() for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]


def _check_thread(saver: SQLAlchemySaver, thread: str) -> list[str]:
    """Every checkpoint that is listed is whole; their ids, newest first."""
    listed = []
    for entry in saver.list(config(thread)):
        name = entry.checkpoint["id"]
        assert entry.checkpoint["channel_values"] == {
            channel: value_of(name, channel) for channel in ("short", "long", "longer")
        }
        writes = entry.pending_writes or []
        assert [write[1:] for write in writes] in ([], [("a", 1), ("b", "w" * 600), ("c", 3)]), (
            "half of a task's writes"
        )
        listed.append(name)
    return listed


def _check(url: str, what: str, seed: int, said: list[list[str]]) -> int:
    """Compare the database with what the worker said; how many promises were checked."""
    if what == "migrations":
        with SQLAlchemySaver(url, prefix=f"p{seed}_") as saver:
            held = len(list(saver.list(None)))
            assert held == 1 if ["migrated"] in said else held in (0, 1)
            put(saver, config("after"))
            assert saver.get_tuple(config("after")) is not None
        return 1
    if what == "together":
        return _check_together(url, said)
    promised: Counter[str] = Counter()
    with SQLAlchemySaver(url) as saver:
        listed = _check_thread(saver, f"t{seed}")
        puts = [words[2] for words in said if words[0] == "put"]
        pruned = [place for place, words in enumerate(said) if words[0] in ("pruned", "pruning")]
        since = said[pruned[-1] :] if pruned else said
        kept = {words[2] for words in since if words[0] in ("put", "pruned")}
        if pruned and said[pruned[-1]][0] == "pruning":
            kept.add(puts[-1])
        assert kept <= set(listed), "an acknowledged checkpoint is lost"
        if puts:
            assert puts[-1] in listed
        for words in said:
            promised[words[0]] += 1
            if words[0] == "writes" and words[2] in listed:
                found = saver.get_tuple(config(f"t{seed}", words[2]))
                assert found is not None
                assert len(found.pending_writes or ()) == 3
            if words[0] == "copied":
                assert words[2] in _check_thread(saver, words[1])
        copies = {thread for thread in _threads(saver) if thread.startswith(f"t{seed}-copy")}
        for thread in copies:
            assert _check_thread(saver, thread), "half of a copy"
        _check_blobs(saver)
    return sum(promised.values())


def _check_together(url: str, said: list[list[str]]) -> int:
    """Threads that shared commits: each one's promises by themselves."""
    promises = [words for words in said if words[0] in ("put", "writes")]
    with SQLAlchemySaver(url) as saver:
        listed = {thread: _check_thread(saver, thread) for thread in _threads(saver)}
        for kind, thread, checkpoint_id in promises:
            assert checkpoint_id in listed[thread], "an acknowledged checkpoint is lost"
            if kind == "writes":
                found = saver.get_tuple(config(thread, checkpoint_id))
                assert found is not None
                assert len(found.pending_writes or ()) == 3
        _check_blobs(saver)
    return len(promises)


def _threads(saver: SQLAlchemySaver) -> set[str]:
    return {entry.config["configurable"]["thread_id"] for entry in saver.list(None)}


def _check_blobs(saver: SQLAlchemySaver) -> None:
    """No reference without its blob."""
    tables = saver._tables
    with saver.engine.connect() as connection:
        for table in (tables.channels, tables.writes):
            missing = connection.scalar(
                select(func.count())
                .select_from(table)
                .outerjoin(tables.blobs, tables.blobs.c.hash == table.c.blob)
                .where(table.c.blob.is_not(None), tables.blobs.c.hash.is_(None))
            )
            assert missing == 0


def _run(workers: subprocess.Popen[str], url: str, kills: int, folder: Path) -> str:
    dice = random.Random(4)
    promises: Counter[str] = Counter()
    with SQLAlchemySaver(url) as saver:
        saver.setup()
    for seed in range(kills):
        what = KINDS[seed % len(KINDS)]
        said = _kill(workers, url, what, seed, dice, folder / f"said{seed}")
        promises[what] += _check(url, what, seed, said)
        with SQLAlchemySaver(url) as saver:
            for thread in _threads(saver):
                saver.delete_thread(thread)
    name = make_url(url).get_backend_name()
    assert promises["puts"] > 0
    assert promises["together"] > 0
    return f"kill -9 | {name} | {kills} kills, promises checked {dict(promises)}"


def test_kills_lose_nothing_that_was_acknowledged(
    workers: subprocess.Popen[str], url: str, tmp_path: Path, shown: Callable[[str], None]
) -> None:
    shown(_run(workers, url, 15, tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
def test_two_hundred_kills_lose_nothing(
    workers: subprocess.Popen[str],
    database: Callable[[str], str],
    name: str,
    tmp_path: Path,
    shown: Callable[[str], None],
) -> None:
    shown(_run(workers, database(name), 200, tmp_path))
