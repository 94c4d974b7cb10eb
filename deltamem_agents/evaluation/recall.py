"""Runs the recall task over all its settings and reports it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from deltamem_agents.evaluation.tasks.recall import (
    SETTINGS,
    TITLES,
    Row,
    Setting,
    measure,
)
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.runtime.template import WritePolicy

ROOM_FOR_A_REPLY = 64
_NOTHING = WritePolicy(system=False, user=False, assistant=False, tool=False, template=False)


@dataclass(frozen=True)
class Recall:
    """The result.

    Attributes:
        rows: what was measured.
        about: model, window, seed, sizes, time.
    """

    rows: tuple[Row, ...]
    about: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {**self.about, "rows": [_line(row) for row in self.rows]}

    def row(self, facts: int, kind: str = "memory", values: str = "known") -> Row:
        """One line."""
        return next(
            row
            for row in self.rows
            if (row.setting.facts, row.setting.values, row.kind) == (facts, values, kind)
            and not row.setting.revised
        )

    def table(self) -> Table:
        """All lines, for a terminal."""
        seen = self.about["distance"]
        title = (
            f"Exact answers about facts {seen['least']} to {seen['most']} tokens outside of a "
            f"window of {self.about['context_window']}"
        )
        table = Table(title=title, box=box.SIMPLE_HEAD)
        for name in ("told", "asked", "exact [95 % interval]", "answers", "conversations"):
            table.add_column(name)
        for row in self.rows:
            table.add_row(
                row.setting.name,
                TITLES[row.kind],
                str(row.share),
                str(row.share.total),
                str(row.conversations),
            )
        return table


def full_context(engine: Engine) -> Engine:
    """The same model, which sees all that its positions hold and writes nothing."""
    return load_engine(
        engine.model,
        tokenizer=engine.tokenizer,
        context_window=engine.max_positions - ROOM_FOR_A_REPLY,
        write_policy=_NOTHING,
    )


def evaluate(
    engine: Engine,
    *,
    count: int = 200,
    seed: int = 0,
    settings: Sequence[Setting] = SETTINGS,
    full: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> Recall:
    """Measure recall.

    Args:
        engine: with the window that facts leave.
        count: conversations of each setting.
        seed: the same seed gives the same conversations.
        settings: what is told.
        full: also ask with everything visible, where a setting wants it.
        tick: called as the work goes on; `steps` says how often.
    """
    begun = time.monotonic()
    whole = full_context(engine) if full else None
    rows: list[Row] = []
    distances: list[int] = []
    sizes: list[int] = []
    lengths: list[int] = []
    for number, setting in enumerate(settings):
        first = 1_000_000 * (seed + 1) + 10_000 * number
        found, held = measure(engine, whole, setting, count, first, tick)
        rows += found
        distances += [one.distance for one in held]
        sizes += [one.memory.nbytes for one in held]
        lengths += [one.memory.tokens_written for one in held]
    about = {
        "task": "recall",
        "model": engine.name,
        "fingerprint": engine.fingerprint,
        "context_window": engine.context_window,
        "seed": seed,
        "distance": {"least": min(distances), "most": max(distances)},
        "tokens": {"least": min(lengths), "most": max(lengths)},
        "memory_bytes": {"least": min(sizes), "most": max(sizes)},
        "seconds": round(time.monotonic() - begun, 1),
    }
    return Recall(tuple(rows), about)


def _line(row: Row) -> dict[str, Any]:
    low, high = row.share.interval
    return {
        "facts": row.setting.facts,
        "values": row.setting.values,
        "revised": row.setting.revised,
        "measured": row.kind,
        "exact": row.share.value,
        "interval": [low, high],
        "answers": row.share.total,
        "conversations": row.conversations,
        "misses": [
            {"question": question, "truth": truth, "answer": answer}
            for question, truth, answer in row.misses
        ],
    }
