"""The state that is stored, and the contestants: a saver with the loops that are timed."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, TypedDict

import numpy as np
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph

RANDOM = np.random.default_rng(0)
MATRICES = [RANDOM.standard_normal((36, 8, 8)).astype("float32") for _ in range(64)]
_NUMBERS = itertools.count(1)


def matrix() -> Any:
    """A memory that no step had before: contents stored once must not help us here."""
    number = next(_NUMBERS)
    made = MATRICES[number % 64].copy()
    made[0, 0, 0] = number
    return made


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "messages": [
            {"role": "user", "content": f"hello {step}" * 6},
            {"role": "ai", "content": f"answer {step}" * 8},
        ],
        "mem": matrix(),
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


class GraphState(TypedDict):
    step: int
    messages: list[Any]
    mem: Any


def run_graph(saver: Any, invokes: int, thread: str = "graph") -> None:
    """One node; three checkpoints and five writes an invoke."""
    builder = StateGraph(GraphState)
    builder.add_node("node", lambda current: state(current["step"] + 1))
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(checkpointer=saver)
    for step in range(invokes):
        graph.invoke({"step": step}, config(thread))


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
        matrices = [matrix() for _ in range(count)]
        start = time.perf_counter()
        for step, made in enumerate(matrices):
            self.saver.put_writes(self.last, [("mem", made), ("step", step)], f"task{step}", "~n")
        elapsed = time.perf_counter() - start
        self.put(2)
        return count / elapsed

    def get(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            self.saver.get_tuple(config(self.thread))
        return count / (time.perf_counter() - start)

    def graph(self, count: int) -> float:
        """Invokes of a graph of one node: three checkpoints and five writes each."""
        start = time.perf_counter()
        run_graph(self.saver, count, uuid.uuid4().hex)
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
        return self._together(count, 1)

    def tasks(self, count: int) -> float:
        return self._together(count, 8)

    def _together(self, count: int, tasks: int) -> float:
        """So many tasks at once, each of which puts to a thread of its own."""

        async def one() -> None:
            versions: dict[str, Any] = {}
            place = config(uuid.uuid4().hex)
            for step in range(count // tasks):
                checkpoint, versions = make(self.saver, step, versions)
                place = await self.saver.aput(place, checkpoint, metadata(step), versions)
            self.thread = place["configurable"]["thread_id"]

        async def go() -> float:
            start = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(tasks)))
            return count // tasks * tasks / (time.perf_counter() - start)

        return self.runner.run(go())

    def get(self, count: int) -> float:
        async def go() -> float:
            start = time.perf_counter()
            for _ in range(count):
                await self.saver.aget_tuple(config(self.thread))
            return count / (time.perf_counter() - start)

        return self.runner.run(go())


def compare(title: str, ours: Any, theirs: Any, methods: dict[str, int], rounds: int) -> None:
    """Turn about; medians of the rounds, so that a busy minute is busy for both.

    Prints a line a method: operations a second of both, the median of the rounds' ratios, and the
    client's CPU time an operation in microseconds.
    """
    for method, count in methods.items():
        rates: dict[Any, list[float]] = {ours: [], theirs: []}
        spent: dict[Any, list[float]] = {ours: [], theirs: []}
        for turn in range(rounds):
            for contestant in (ours, theirs) if turn % 2 else (theirs, ours):
                start = time.process_time()
                rates[contestant].append(getattr(contestant, method)(count))
                spent[contestant].append((time.process_time() - start) / count * 1e6)
        mine, their = (median(rates[one]) for one in (ours, theirs))
        ratio = median(own / other for own, other in zip(rates[ours], rates[theirs], strict=True))
        cpu = " against ".join(f"{median(spent[one]):.0f}" for one in (ours, theirs))
        print(
            f"| {title} | {method} | {mine:.0f} | {their:.0f} | {ratio:.2f} | {cpu} |", flush=True
        )
