"""Our saver beside LangGraph's official ones, in one run: rates, bytes, listings.

    python benchmarks/saver.py [--puts 60] [--rounds 21] [--only sqlite,postgres,bytes,listing]

State: an int, two small messages, float32[36, 8, 8] (9,216 bytes), all three changed at each
step, and no matrix ever the same as another. The contestants of a comparison take turns, many
short ones (so that a busy machine is busy for both); rates are the medians of the rounds, and the
ratio is the median of the rounds' own. SQLite runs with synchronous=FULL on both sides unless the
line says NORMAL. PostgreSQL: DELTAMEM_TEST_POSTGRES_URL, a database of its own that is dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from saver_parts.contestants import Async, Sync, compare, config, make, metadata
from saver_parts.databases import bytes_per_invoke, plain, postgres

from deltamem_agents.checkpoint import SQLAlchemySaver


def sqlite_rates(folder: Path, puts: int, rounds: int) -> None:
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    for level in ("FULL", "NORMAL"):
        connection = sqlite3.connect(folder / f"theirs{level}.db", check_same_thread=False)
        theirs = SqliteSaver(connection)
        theirs.setup()
        connection.execute(f"PRAGMA synchronous={level}")
        with SQLAlchemySaver(f"sqlite:///{folder}/ours{level}.db", synchronous=level) as ours:
            compare(
                f"SQLite {level}",
                Sync("ours", ours),
                Sync("theirs", theirs),
                {
                    "put": puts,
                    "put_writes": puts,
                    "get": 4 * puts,
                    "threads": puts,
                    "graph": puts // 4,
                },
                rounds,
            )
        connection.close()
    with asyncio.Runner() as runner:
        made = AsyncSqliteSaver.from_conn_string(str(folder / "theirs_async.db"))
        ours = SQLAlchemySaver(f"sqlite:///{folder}/ours_async.db")
        compare(
            "SQLite FULL, async",
            Async("ours", ours, runner),
            Async("theirs", runner.run(made.__aenter__()), runner),
            {"put": puts, "tasks": puts, "get": 2 * puts},
            rounds,
        )
        runner.run(made.__aexit__(None, None, None))
        runner.run(ours.aclose())


def postgres_rates(puts: int, rounds: int) -> None:
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import ConnectionPool

    with postgres() as mine, postgres() as other, SQLAlchemySaver(mine) as ours:
        with PostgresSaver.from_conn_string(plain(other)) as theirs:
            theirs.setup()
            compare(
                "PostgreSQL, 1 connection",
                Sync("ours", ours),
                Sync("theirs", theirs),
                {"put": puts, "put_writes": puts, "get": puts},
                rounds,
            )
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        with ConnectionPool(plain(other), min_size=8, max_size=8, kwargs=options) as pool:
            theirs = PostgresSaver(pool)
            compare(
                "PostgreSQL, pool of 8, 8 threads",
                Sync("ours", ours),
                Sync("theirs", theirs),
                {"threads": puts},
                rounds,
            )


def listing(url: str, title: str, large: int) -> None:
    """The newest 10 of a thread with `large` checkpoints beside 10 of 100."""
    with SQLAlchemySaver(url, synchronous="OFF") as saver:
        versions: dict[str, Any] = {}
        for thread, count in (("small", 100), ("large", large)):
            place = config(thread)
            for step in range(count):
                checkpoint, versions = make(saver, step, versions)
                place = saver.put(place, checkpoint, metadata(step), versions)
        best = {"small": 9.0, "large": 9.0}
        for _ in range(30):
            for thread in tuple(best):
                start = time.perf_counter()
                assert len(list(saver.list(config(thread), limit=10))) == 10
                best[thread] = min(best[thread], time.perf_counter() - start)
    small, big = best["small"] * 1e3, best["large"] * 1e3
    print(
        f"| {title} | list 10 of {large} / of 100, ms | {big:.2f} | {small:.2f} "
        f"| {big / small:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--puts", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--invokes", type=int, default=200)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--only", default="sqlite,postgres,bytes,listing")
    options = parser.parse_args()
    parts = options.only.split(",")
    print("| comparison | what | ours, 1/s | theirs, 1/s | ratio | CPU us |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if "sqlite" in parts:
            sqlite_rates(folder, options.puts, options.rounds)
        if "postgres" in parts:
            postgres_rates(options.puts, options.rounds)
        if "bytes" in parts:
            bytes_per_invoke(folder, options.invokes)
        if "listing" in parts:
            listing(f"sqlite:///{folder}/list.db", "SQLite", options.large)


if __name__ == "__main__":
    main()
