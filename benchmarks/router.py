"""What the router adds to a turn: `python benchmarks/router.py [--facts 10000] [--tenants 1000]`.

One tenant with 10,000 facts in one thread among 999 other tenants, keyword only. Two kinds of
questions: those that name somebody's something ("What is Anna's badge number 97?") are looked up by
it, all others search the words. Probes and a bare round trip to the database (SELECT 1) are timed
in turns, so that both see the same machine.
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
from deltamem_agents.router import FactStore, HybridRouter, Scope


def fill(store: FactStore, thread: str, facts: int, seed: int) -> dict[str, list[str]]:
    """Tells that many facts; returns questions on some of them, by kind."""
    world, told = RouterWorld(seed, "dev"), []
    named, worded = ["What is my shoe size?"], ["How was your day?", "Where do I live?"]
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
                named.append(f"What is {holder}'s {label}?")
                worded.append(f"Which {label} did they give?")
            count += 1
    store.record_all(told, scope)
    return {"named": named, "searched": worded}


def ask(
    router: HybridRouter, store: FactStore, scope: Scope, questions: list[str], probes: int
) -> None:
    """Times the probes of some questions and prints their figures."""
    taken, cpu, trips = [], [], []
    routes: dict[str, int] = {}
    for number in range(probes):
        question = questions[number % len(questions)]
        started, worked = time.perf_counter(), time.process_time()
        decision = router.probe(question, scope)
        taken.append(time.perf_counter() - started)
        cpu.append(time.process_time() - worked)
        routes[decision.route] = routes.get(decision.route, 0) + 1
        started = time.perf_counter()
        with store.engine.begin() as connection:
            connection.execute(text("SELECT 1")).all()
        trips.append(time.perf_counter() - started)
    rows = (("probe", taken), ("CPU of this process", cpu), ("a bare round trip", trips))
    for name, seconds in rows:
        low, high = np.percentile(seconds, [50, 95]) * 1e3
        print(f"  {name}: p50 {low:.2f} ms, p95 {high:.2f} ms")
    print(f"  routes {routes}")


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
            print(f"facts {given.facts}, other tenants {given.tenants - 1}")
            print(f"recording: {recorded / given.facts * 1e6:.0f} us a fact")
            router, scope = HybridRouter(store), store.branch("thread")
            for kind, some in questions.items():
                print(f"{kind}:")
                ask(router, store, scope, some, given.probes)


if __name__ == "__main__":
    main()
