"""The demo's verdict counts all that the demo shows."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from deltamem_agents.cli.demo_ask import Asked, Forgot
from deltamem_agents.cli.demo_report import forgotten, verdict
from deltamem_agents.cli.demo_script import Told

FACTS = [Told(n, "me", "pet", value, "?") for n, value in enumerate(("cat", "dog", "owl", "emu"))]
ROWS = [Asked(fact, 200, f"It is {fact.value}.", "unknown", fact.value, "", 9, 9) for fact in FACTS]
BRANCHES: list[Any] = [
    SimpleNamespace(answer=f"It is {value}.", value=value, gone=True) for value in ("red", "blue")
]
FORGOT = Forgot(FACTS[0], "unknown", "unknown", 5, 0, (True,) * 3, (True,) * 3)

WORSE = [replace(ROWS[0], remembered="unknown"), replace(ROWS[1], remembered="unknown"), *ROWS[2:]]
UNROUTED = [replace(row, routed="unknown") for row in ROWS[:2]] + ROWS[2:]
GUESSED = [replace(row, control=row.remembered) for row in ROWS]
MIXED: list[Any] = [SimpleNamespace(answer="It is blue.", value="red", gone=True), BRANCHES[1]]

BROKEN = {
    "memory answers too little": (WORSE, BRANCHES, FORGOT),
    "router answers too little": (UNROUTED, BRANCHES, FORGOT),
    "an empty memory answers too": (GUESSED, BRANCHES, FORGOT),
    "branches are mixed": (ROWS, MIXED, FORGOT),
    "forgotten fact is answered": (ROWS, BRANCHES, replace(FORGOT, answer="It is cat.")),
    "forgotten fact is in the store": (ROWS, BRANCHES, replace(FORGOT, routed="cat")),
    "forgotten fact is in the bytes": (ROWS, BRANCHES, replace(FORGOT, bytes_left=1)),
    "other facts are lost": (ROWS, BRANCHES, replace(FORGOT, others=(True, False, False))),
    "other facts left the store": (ROWS, BRANCHES, replace(FORGOT, routed_others=(False,) * 3)),
}


def spoken(rows: Any, branches: Any, forgot: Any) -> tuple[int, str]:
    out = Console(file=io.StringIO(), width=200)
    status = verdict(out, rows, branches, forgot)
    return status, out.file.getvalue()  # type: ignore[attr-defined]


def test_all_is_well() -> None:
    status, text = spoken(ROWS, BRANCHES, FORGOT)
    assert status == 0
    assert "The promise holds." in text
    assert "forgotten fact gone, the others kept." in text


@pytest.mark.parametrize("broken", BROKEN)
def test_each_part_of_the_promise_can_break_it(broken: str) -> None:
    status, text = spoken(*BROKEN[broken])
    assert status == 1
    assert "The promise is broken." in text


def test_what_is_kept_is_shown_for_memory_and_router() -> None:
    out = Console(file=io.StringIO(), width=200)
    forgotten(out, replace(FORGOT, others=(True, True, False)))
    assert "2/3 are still answered, with router 3/3" in out.file.getvalue()  # type: ignore[attr-defined]
