"""How answers are counted, and what the controls are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.evaluation.controls import emptied, swapped
from deltamem_agents.evaluation.metrics import Share, says


@pytest.mark.parametrize(
    ("answer", "value", "said"),
    [
        ("Your pet is a Falcon.", "falcon", True),
        ("Your code is 48213.", "48213", True),
        ("Your code is 482130.", "48213", False),
        ("Your pet is a catfish.", "cat", False),
        ("It is at 1.2.3, I think.", "1.2.3", True),
        ("It is at 112x3.", "1.2.3", False),
    ],
)
def test_a_value_is_said_as_whole_words(answer: str, value: str, said: bool) -> None:
    assert says(answer, value) is said


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (9, 10, 0.5958, 0.9821),
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (90, 200, 0.3826, 0.5193),
    ],
)
def test_wilson_intervals(right: int, total: int, low: float, high: float) -> None:
    """Against the published formula's values (as in R's binom.wilson)."""
    assert Share(right, total).interval == pytest.approx((low, high), abs=1e-4)
    assert Share(right, total).value == right / total


def test_a_share_of_nothing_is_no_number() -> None:
    empty = Share.of([])
    assert math.isnan(empty.value)
    assert all(map(math.isnan, empty.interval))
    assert str(Share.of([True, False])) == "0.500 [0.09, 0.91]"


def memory(seed: int, visible: str) -> MemoryState:
    draw = np.random.default_rng(seed)
    arrays = [draw.normal(size=(2, 1, 4, 4)).astype(np.float32) for _ in range(2)]
    return MemoryState(*arrays, Ledger("ab", 2, (visible * 64,)), 7, "c" * 64)


def test_controls_keep_what_is_visible_and_change_what_is_behind_it() -> None:
    mine, other = memory(0, "1"), memory(1, "2")
    assert emptied(mine).ledger == swapped(mine, other).ledger == mine.ledger
    assert not emptied(mine).state.any()
    assert not emptied(mine).boundary_state.any()
    assert np.array_equal(swapped(mine, other).boundary_state, other.boundary_state)
    assert mine.state.any()
