"""Our saver beside LangGraph's official ones, in one run: rates, bytes, listings.

    python benchmarks/saver.py [--puts 400] [--rounds 3] [--only sqlite,postgres,bytes,listing]

State: an int, two small messages, float32[36, 8, 8] (9,216 bytes), all three changed at each
step. Every contestant of a comparison takes its turn in every round (so that a busy machine is
busy for both), and the best round counts. SQLite runs with synchronous=FULL on both sides unless
the line says NORMAL. PostgreSQL: DELTAMEM_TEST_POSTGRES_URL, a database of its own that is dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph
from sqlalchemy import create_engine, make_url, text

from deltamem_agents.checkpoint import SQLAlchemySaver

POSTGRES = os.environ.get("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test")
RANDOM = np.random.default_rng(0)
MATRICES = [RANDOM.standard_normal((36, 8, 8)).astype("float32") for _ in range(64)]


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "messages": [
            {"role": "user", "content": f"hello {step}" * 6},
            {"role": "ai", "content": f"answer {step}" * 8},
        ],
        "mem": MATRICES[step % 64],
    }


def make(saver: Any, step: int, versions: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    checkpoint = empty_checkpoint()
    checkpoint["id"] = str(uuid6(clock_seq=step))
    version = saver.get_next_version(max(versions.values()) if versions else None, None)
    new = dict.fromkeys(("step", "messages", "mem"), version)
    checkpoint["channel_values"], checkpoint["channel_versions"] = state(step), new
    checkpoint["versions_seen"] = {"node": {"step": version}, "__input__": {}}
    return checkpoint, new


def metadata(step: int) -> Any:
    return {"source": "loop", "step": step, "parents": {}, "run_id": f"run{step // 10}"}


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}


class Sync:
    """One contestant: a sync saver."""

    def __init__(self, name: str, saver: Any) -> None:
        self.name, self.saver = name, saver

    def put(self, count: int) -> float:
        versions: dict[str, Any] = {}
        place = config(uuid.uuid4().hex)
        ready = []
        for step in range(count):
            checkpoint, versions = make(self.saver, step, versions)
            ready.append((checkpoint, versions))
        start = time.perf_counter()
        for step, (checkpoint, new) in enumerate(ready):
            place = self.saver.put(place, checkpoint, metadata(step), new)
        elapsed = time.perf_counter() - start
        self.thread = place["configurable"]["thread_id"]
        self.last = place
        return count / elapsed

    def put_writes(self, count: int) -> float:
        start = time.perf_counter()
        for step in range(count):
            self.saver.put_writes(
                self.last, [("mem", MATRICES[step % 64]), ("step", step)], f"task{step}", "~n"
            )
        elapsed = time.perf_counter() - start
        self.put(2)
        return count / elapsed

    def get(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            self.saver.get_tuple(config(self.thread))
        return count / (time.perf_counter() - start)

    def threads(self, count: int) -> float:
        run = uuid.uuid4().hex

        def job(step: int) -> None:
            checkpoint, new = make(self.saver, step, {})
            self.saver.put(config(f"{run}{step}"), checkpoint, metadata(step), new)
            self.saver.get_tuple(config(f"{run}{step}"))

        start = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(job, range(count)))
        return count / (time.perf_counter() - start)


class Async:
    """One contestant: an async saver on a loop of its own."""

    def __init__(self, name: str, saver: Any, runner: asyncio.Runner) -> None:
        self.name, self.saver, self.runner = name, saver, runner

    def put(self, count: int) -> float:
        async def go() -> float:
            versions: dict[str, Any] = {}
            place = config(uuid.uuid4().hex)
            start = time.perf_counter()
            for step in range(count):
                checkpoint, versions = make(self.saver, step, versions)
                place = await self.saver.aput(place, checkpoint, metadata(step), versions)
            self.thread = place["configurable"]["thread_id"]
            return count / (time.perf_counter() - start)

        return self.runner.run(go())

    def get(self, count: int) -> float:
        async def go() -> float:
            start = time.perf_counter()
            for _ in range(count):
                await self.saver.aget_tuple(config(self.thread))
            return count / (time.perf_counter() - start)

        return self.runner.run(go())


def compare(title: str, ours: Any, theirs: Any, methods: dict[str, int], rounds: int) -> None:
    """Turn about, best round; prints one line a method."""
    for method, count in methods.items():
        best = {ours: 0.0, theirs: 0.0}
        for turn in range(rounds):
            for contestant in (ours, theirs) if turn % 2 else (theirs, ours):
                best[contestant] = max(best[contestant], getattr(contestant, method)(count))
        ratio = best[ours] / best[theirs]
        print(
            f"| {title} | {method} | {best[ours]:.0f} | {best[theirs]:.0f} | {ratio:.2f} |",
            flush=True,
        )


@contextmanager
def postgres() -> Iterator[str]:
    server = create_engine(make_url(POSTGRES), isolation_level="AUTOCOMMIT")
    name = "bench_" + uuid.uuid4().hex[:10]
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg:", "postgresql:")


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
                {"put": puts, "put_writes": puts, "get": 4 * puts, "threads": puts},
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
            {"put": puts, "get": 2 * puts},
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


class GraphState(TypedDict):
    step: int
    messages: list[Any]
    mem: Any


def run_graph(saver: Any, invokes: int) -> None:
    """One node; three checkpoints and five writes an invoke."""
    builder = StateGraph(GraphState)
    builder.add_node("node", lambda current: state(current["step"] + 1))
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(checkpointer=saver)
    for step in range(invokes):
        graph.invoke({"step": step}, config("graph"))


def file_bytes(path: Path) -> int:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def postgres_bytes(url: str) -> int:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
        size = connection.scalar(
            text(
                "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
        )
    engine.dispose()
    return int(size)


def grown(saver: Any, size: Callable[[], int], invokes: int) -> float:
    """Bytes an invoke, without what an empty database has."""
    run_graph(saver, 1)
    before = size()
    run_graph(saver, invokes)
    return (size() - before) / invokes


def bytes_per_invoke(folder: Path, invokes: int) -> None:
    from langgraph.checkpoint.postgres import PostgresSaver
    from langgraph.checkpoint.sqlite import SqliteSaver

    ours_path, theirs_path = folder / "bytes_ours.db", folder / "bytes_theirs.db"
    with SQLAlchemySaver(ours_path) as ours:
        mine = grown(ours, lambda: file_bytes(ours_path), invokes)
    with SqliteSaver.from_conn_string(str(theirs_path)) as theirs:
        their = grown(theirs, lambda: file_bytes(theirs_path), invokes)
    print(
        f"| SQLite | bytes an invoke | {mine:.0f} | {their:.0f} | {mine / their:.2f} |", flush=True
    )
    with postgres() as first, postgres() as second, SQLAlchemySaver(first) as ours:
        mine = grown(ours, lambda: postgres_bytes(first), invokes)
        with PostgresSaver.from_conn_string(plain(second)) as theirs:
            theirs.setup()
            their = grown(theirs, lambda: postgres_bytes(second), invokes)
    print(
        f"| PostgreSQL | bytes an invoke | {mine:.0f} | {their:.0f} | {mine / their:.2f} |",
        flush=True,
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
    parser.add_argument("--puts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--invokes", type=int, default=200)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--only", default="sqlite,postgres,bytes,listing")
    options = parser.parse_args()
    parts = options.only.split(",")
    print("| comparison | what | ours | theirs | ratio |\n|---|---|---|---|---|", flush=True)
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
