"""What a cold process pays to go on with a conversation, by its length and by the window.

A live session reads the new message only. A cold one reads the visible window again from the
boundary: its price follows the window, not the history. Both are measured side by side,
interleaved, as processor time (a busy machine counts less), on a random backbone (skill plays no
part in what is measured). Histories are cut so that the question itself evicts nothing. Both pay
for rendering the history that LangGraph sends again at each call; the rest of their difference
is the price of being cold. At the end that price is fitted as a + b * visible tokens + c * turns of
history: b is what the window costs, c should be nothing.

Run: python benchmarks/resume.py [turns ...]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np

from deltamem_agents.chat import ChatDeltaMem
from deltamem_agents.runtime.slot import MemorySlot
from deltamem_agents.testing import save_tiny

WINDOWS = (128, 256, 512, 1024)
ROUNDS = 5


def told(turns: int) -> list[tuple[str, str]]:
    said = []
    for turn in range(turns):
        said.append(("user", f"fact {turn}: the code is {turn * 37 % 101}"))
        said.append(("assistant", "noted"))
    return said


def call(model: Any, memory: Any, messages: list[tuple[str, str]]) -> float:
    begun = time.process_time()
    slot = MemorySlot(memory)
    model.with_memory(slot).invoke(messages)
    assert slot.after is not None
    return (time.process_time() - begun) * 1000


def quiet(engine: Any, turns: int) -> Any:
    """A history of about so many turns after which a question evicts nothing."""
    memory = None
    for length in range(turns, turns + 20):
        history = told(length)
        plain = [{"role": role, "content": text} for role, text in history]
        memory = engine.read(memory, plain)
        asked = engine.read(memory, [*plain, {"role": "user", "content": "and now? and then?"}])
        if asked.ledger.evicted_count == memory.ledger.evicted_count:
            return history, memory, plain
    raise AssertionError("every question evicts")


def measure(folders: Any, window: int, turns: int) -> dict[str, float]:
    model = ChatDeltaMem(
        model=str(folders[0]),
        adapter=str(folders[1]),
        context_window=window,
        low_water=window * 3 // 4,
        max_tokens=2,
    )
    engine = model.engine
    history, memory, plain = quiet(engine, turns)
    question = [*history, ("user", "and now?")]
    cold, live = [], []
    for _ in range(ROUNDS):
        engine.live.clear()
        cold.append(call(model, memory, question))
        engine.live.clear()
        again = engine.read(memory, plain)  # puts the live session back
        live.append(call(model, again, question))
    visible = engine.count_tokens(plain[memory.ledger.evicted_count :], generate=False)
    return {
        "cold": statistics.median(cold),
        "live": statistics.median(live),
        "visible": visible,
    }


def fitted(rows: list[dict[str, float]]) -> tuple[float, float, float]:
    """Least squares: ms at rest, ms a visible token, ms a turn of history."""
    given = np.array([[1.0, row["visible"], row["turns"]] for row in rows])
    price = np.array([row["cold"] - row["live"] for row in rows])
    rest, token, turn = np.linalg.lstsq(given, price, rcond=None)[0]
    return float(rest), float(token), float(turn)


def main() -> None:
    lengths = [int(given) for given in sys.argv[1:]] or [10, 50, 200, 500]
    folders = save_tiny(tempfile.mkdtemp(), window=2048, layers=4, hidden=128)
    measure(folders, WINDOWS[0], lengths[0])  # compile
    print("| window | turns | visible tokens | cold ms | live ms | cold / live | cold - live ms |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for window in WINDOWS:
        for turns in lengths:
            found = measure(folders, window, turns)
            rows.append({**found, "turns": turns})
            print(
                f"| {window} | {turns} | {found['visible']:.0f} | {found['cold']:.1f} "
                f"| {found['live']:.1f} | {found['cold'] / found['live']:.1f} "
                f"| {found['cold'] - found['live']:.1f} |",
                flush=True,
            )
    rest, token, turn = fitted(rows)
    print(
        f"\ncold - live = {rest:.1f} ms + {token:.3f} ms a visible token "
        f"+ {turn:.4f} ms a turn of history"
    )


if __name__ == "__main__":
    main()
