"""What the router adds to a turn: `python benchmarks/router.py [--facts 10000] [--tenants 1000]`.

One tenant with 10,000 facts in one thread among 1,000 other tenants, keyword only. Probes and a
bare round trip to the database (SELECT 1) are timed in turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sqlalchemy import text

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.evaluation.tasks.router_world import RouterWorld
from deltamem_agents.router import FactStore, HybridRouter


def fill(store: FactStore, thread: str, facts: int, seed: int) -> list[str]:
    """Tells that many facts; returns questions on some of them."""
    world, told, questions = RouterWorld(seed, "dev"), [], []
    scope = store.branch(thread)
    count = 0
    while count < facts:
        slots = world._slots(min(24, facts - count))
        for slot in slots:
            holder = slot.holder or "the house"
            label = f"{slot.attribute} number {count}"
            told.append(
                {
                    "role": "user",
                    "content": f"{holder}'s {label} is {world.value(slot.kind)}",
                    "id": f"m{count}",
                }
            )
            if count % 97 == 0:
                questions.append(f"What is {holder}'s {label}?")
            count += 1
    store.record_all(told, scope)
    return [*questions, "How was your day?", "What is my shoe size?", "Where do I live?"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--facts", type=int, default=10_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--others", type=int, default=3, help="facts of each other tenant")
    parser.add_argument("--probes", type=int, default=400)
    parser.add_argument("--url", default="")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'bench.db'}"
        savers = [
            SQLAlchemySaver(url, tenant=f"tenant-{number}", synchronous="OFF", pool_size=1)
            for number in range(given.tenants)
        ]
        for number, saver in enumerate(savers[1:]):
            with saver:
                fill(FactStore(saver), "thread", given.others, number)
        with savers[0] as saver:
            store = FactStore(saver)
            started = time.perf_counter()
            questions = fill(store, "thread", given.facts, 4711)
            recorded = time.perf_counter() - started
            router, scope = HybridRouter(store), store.branch("thread")
            probes, cpu, trips, routes = [], [], [], {}
            for number in range(given.probes):
                question = questions[number % len(questions)]
                started, worked = time.perf_counter(), time.process_time()
                decision = router.probe(question, scope)
                probes.append(time.perf_counter() - started)
                cpu.append(time.process_time() - worked)
                routes[decision.route] = routes.get(decision.route, 0) + 1
                started = time.perf_counter()
                with store.engine.begin() as connection:
                    connection.execute(text("SELECT 1")).all()
                trips.append(time.perf_counter() - started)
    probe, trip = np.percentile(probes, [50, 95]) * 1e3, np.percentile(trips, [50, 95]) * 1e3
    print(f"facts {given.facts}, other tenants {given.tenants - 1}, routes {routes}")
    print(f"recording: {recorded / given.facts * 1e6:.0f} us a fact")
    print(f"probe p50 {probe[0]:.2f} ms, p95 {probe[1]:.2f} ms")
    own = np.percentile(cpu, [50, 95]) * 1e3
    print(f"of it CPU of this process p50 {own[0]:.2f} ms, p95 {own[1]:.2f} ms")
    print(f"a bare round trip p50 {trip[0]:.2f} ms, p95 {trip[1]:.2f} ms")
    print(f"ratio at p50 {probe[0] / trip[0]:.1f}")


if __name__ == "__main__":
    main()
