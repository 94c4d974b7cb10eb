"""Connections that make a SQLite file at once: each finds it switched to write-ahead logging."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from deltamem_agents.checkpoint import engines

# Two that switch a file in the same moment were refused in 2 to 3 openings of 100.
FILES, AT_ONCE = 100, 4


def _url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


def test_in_threads(tmp_path: Path) -> None:
    together = Barrier(AT_ONCE)

    def journal(path: Path) -> str:
        engine = engines.sync_engine(_url(path), synchronous="FULL", busy_timeout=30.0, pool_size=1)
        together.wait()
        with engine.connect() as connection:
            found = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
        engine.dispose()
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(FILES):
            path = tmp_path / f"{number}.db"
            assert list(pool.map(journal, [path] * AT_ONCE)) == ["wal"] * AT_ONCE


def test_on_an_event_loop(tmp_path: Path) -> None:
    async def journal(path: Path) -> str:
        engine = engines.async_engine(
            _url(path), synchronous="FULL", busy_timeout=30.0, pool_size=1
        )
        async with engine.connect() as connection:
            found = str((await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one())
        await engine.dispose()
        return found

    async def all_at_once(path: Path) -> list[str]:
        return await asyncio.gather(*[journal(path) for _ in range(AT_ONCE)])

    for number in range(FILES):
        assert asyncio.run(all_at_once(tmp_path / f"{number}.db")) == ["wal"] * AT_ONCE


class Refusing:
    """Stands for SQLite's connection and cursor, and refuses the switch at once. Plumbing only."""

    def __init__(self, times: int) -> None:
        self.left, self.asked = times, list[str]()

    def cursor(self) -> Refusing:
        return self

    def execute(self, statement: str) -> None:
        self.asked.append(statement)
        if "journal_mode" in statement and self.left:
            self.left -= 1
            raise sqlite3.OperationalError("database is locked")

    def fetchone(self) -> tuple[int]:
        return (100,)  # milliseconds

    def close(self) -> None:
        self.asked.append("closed")


def test_who_is_refused_at_once_tries_again_for_as_long_as_was_given() -> None:
    refused = Refusing(10**9)
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        engines.pragmas(refused, "FULL")
    assert time.monotonic() - began >= 0.1
    tries = [one for one in refused.asked if "journal_mode" in one]
    assert len(tries) > 2
    assert refused.asked[-2:] == ["PRAGMA busy_timeout=100", "closed"]
    soon = Refusing(2)
    engines.pragmas(soon, "FULL")
    assert len([one for one in soon.asked if "journal_mode" in one]) == 3
    waits = [int(one.split("=")[1]) for one in soon.asked if "busy_timeout=" in one]
    assert waits[-1] == 100
    assert all(wait < 100 for wait in waits[:-1])


def test_a_file_that_stays_locked(tmp_path: Path) -> None:
    """Is an error after the time that was given, and no endless wait."""
    path = tmp_path / "held.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE t (x)")
        holder.execute("BEGIN EXCLUSIVE")
        engine = engines.sync_engine(_url(path), synchronous="FULL", busy_timeout=0.1, pool_size=1)
        with pytest.raises(OperationalError, match="locked"):
            engine.connect()
        holder.execute("ROLLBACK")
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        engine.dispose()
