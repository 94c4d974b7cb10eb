"""Contestants that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Best(NamedTuple):
    """Seconds of a contestant's best round, by the clock and by the processor."""

    wall: float
    cpu: float


def timed(contestant: Callable[[], Any]) -> Best:
    wall, cpu = time.perf_counter(), time.process_time()
    contestant()
    return Best(time.perf_counter() - wall, time.process_time() - cpu)


def best(rounds: int, *contestants: Callable[[], Any]) -> list[Best]:
    """The best of each, taking turns; of several rounds the first is for warming up."""
    found: list[list[Best]] = [[] for _ in contestants]
    for number in range(rounds + (rounds > 1)):
        for place, contestant in enumerate(contestants):
            taken = timed(contestant)
            if number or rounds == 1:
                found[place].append(taken)
    return [Best(min(t.wall for t in all_), min(t.cpu for t in all_)) for all_ in found]


HEAD = """
| what | tokens/s, of the first | of the second | ratio by the clock | by processor time |
|---|---|---|---|---|"""


def report(title: str, tokens: int, names: tuple[str, str], one: Best, other: Best) -> None:
    """Print a row: how fast each is, and how many times as fast the first as the second."""
    rates = f"{tokens / one.wall:.1f} | {tokens / other.wall:.1f}"
    ratios = f"{other.wall / one.wall:.2f} | {other.cpu / one.cpu:.2f}"
    print(f"| {title}: {names[0]}, {names[1]} | {rates} | {ratios} |", flush=True)
