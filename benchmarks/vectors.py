"""Vector search by matrix and by pgvector: `python benchmarks/vectors.py [--url postgresql://...]`.

One thread with 10,000 facts and made-up vectors of 384 numbers, in a database that has pgvector
(without --url: a private server, from the dev extra). Each way is timed in a fresh process of its
own, the two in turns: the first vector search, the following ones, the work that these are for this
process and (on a socket of this machine) for its server process, and memory before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from sqlalchemy import create_engine, make_url

sys.path.insert(0, str(Path(__file__).parents[1]))

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore, pgvector
from tests.router.private_server import private_server

THREAD, DEPTH = "thread", 40


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--facts", type=int, default=10_000)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--searches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", default="")
    parser.add_argument("--way", choices=["", "matrix", "pgvector"], default="", help="inside")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given)))
        return
    with server(given.url) as url:
        tell(url, given.facts, given.length)
        told: dict[str, list[dict[str, Any]]] = {"matrix": [], "pgvector": []}
        for _ in range(given.rounds):
            for way, results in told.items():
                command = [sys.executable, __file__, "--way", way, "--url", url]
                more = ["--length", str(given.length), "--searches", str(given.searches)]
                done = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE)
                results.append(json.loads(done.stdout))
    for way, results in told.items():
        middle = {key: float(np.median([each[key] for each in results])) for key in results[0]}
        print(way, {key: round(value, 2) for key, value in middle.items()})


@contextmanager
def server(url: str) -> Iterator[str]:
    if url:
        yield url
        return
    with private_server() as made:
        engine = create_engine(made)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE EXTENSION vector")
        engine.dispose()
        yield made


def tell(url: str, facts: int, length: int) -> None:
    """Records the facts and fills their vectors."""
    with SQLAlchemySaver(url) as saver:
        store = FactStore(saver, embeddings=DeterministicFakeEmbedding(size=length))
        scope = store.branch(THREAD)
        told = [Document(f"Page {n} of the made-up book.", id=f"d{n}") for n in range(facts)]
        store.add_documents(told, scope, facts=False)
        started = time.perf_counter()
        store.search("anything", scope)
        print(store.status(), f"embedded and filled in {time.perf_counter() - started:.1f} s")
        with saver.engine.connect() as connection:
            raw = connection.execution_options(isolation_level="AUTOCOMMIT")
            raw.exec_driver_sql("VACUUM ANALYZE fact_vectors").close()
            raw.exec_driver_sql("VACUUM ANALYZE facts").close()


def measure(given: argparse.Namespace) -> dict[str, float]:
    """The figures of one way, in this process."""
    if given.way == "matrix":
        pgvector.embedding_schema = lambda *_: None  # as if there were no extension
    with SQLAlchemySaver(given.url) as saver:
        store = FactStore(saver, embeddings=DeterministicFakeEmbedding(size=given.length))
        assert store.vectors is not None
        scope, shelf, taken = store.branch(THREAD), store.access.shelf, []
        store.search("page", store.branch("none"))  # what is loaded and prepared once
        with saver.engine.connect() as connection:
            backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        near = make_url(given.url).host is None
        before, worked = resident(), 0.0
        for number in range(given.searches + 1):
            if number == 1:
                worked = cpu("self") + (cpu(backend) if near else 0.0)
            started = time.perf_counter()
            store.vectors.search(shelf, f"question {number}", scope, DEPTH)
            taken.append(time.perf_counter() - started)
        worked = cpu("self") + (cpu(backend) if near else 0.0) - worked
        low, high = np.percentile(taken[1:], [50, 95]) * 1e3
        return {
            "first ms": taken[0] * 1e3,
            "p50 ms": low,
            "p95 ms": high,
            "CPU ms": worked / given.searches * 1e3,
            "MiB before": before,
            "MiB more": resident() - before,
        }


def cpu(process: int | str) -> float:
    """Seconds that a process of this machine has worked."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
