"""Connections that make a SQLite file at once: each finds it switched to write-ahead logging."""

from __future__ import annotations

import asyncio
import sqlite3
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
