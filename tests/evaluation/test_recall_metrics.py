"""How answers are counted, and what the controls are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from deltamem_agents.cli.app import app
from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.controls import emptied, shuffled, swapped, without_window
from deltamem_agents.evaluation.metrics import Mean, Share, says, summarise
from deltamem_agents.evaluation.tasks.recall import SETTINGS, Setting, settings_of


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


def test_a_shuffled_memory_has_the_same_numbers_in_other_places() -> None:
    mine = memory(0, "1")
    mixed, again, other = shuffled(mine, 3), shuffled(mine, 3), shuffled(mine, 4)
    assert np.array_equal(mixed.state, again.state)
    assert not np.array_equal(mixed.state, other.state)
    assert not np.array_equal(mixed.state, mine.boundary_state)
    ordered = [
        np.sort(state.reshape(2, 16), axis=1) for state in (mixed.state, mine.boundary_state)
    ]
    assert np.array_equal(*ordered)
    assert mixed.ledger == mine.ledger


def test_a_memory_without_its_window_has_its_messages_behind_it() -> None:
    mine = memory(0, "1")
    bare = without_window(mine)
    assert np.array_equal(bare.boundary_state, mine.state)
    assert (bare.ledger.evicted_count, bare.ledger.visible) == (3, ())
    assert bare.ledger.evicted != mine.ledger.evicted


def test_means_are_resampled_by_episode() -> None:
    even = summarise([[0.0, 0.5], [0.5, 1.0]] * 20)
    assert isinstance(even, Mean)
    assert even.value == 0.5
    low, high = even.interval
    assert low == pytest.approx(0.42, abs=0.02)
    assert high == pytest.approx(0.58, abs=0.02)
    # As many answers that hang together within episodes are worth less.
    low, high = summarise([[0.0] * 20, [0.9] * 20]).interval
    assert (low, high) == (0.0, pytest.approx(0.9))
    assert math.isnan(summarise([[0.2, 0.3]]).interval[0])
    assert isinstance(summarise([[1.0, 0.0], [], [1.0]]), Share)
    assert summarise([[1.0, 0.0], [], [1.0]]).value == 2 / 3


def test_any_count_of_facts_can_be_asked_for() -> None:
    assert settings_of([]) == list(SETTINGS)
    assert settings_of([5, 8]) == [Setting(8, controls=True), Setting(5, controls=True)]
    assert {one.facts for one in settings_of([1, 4])} == {1, 4}
    with pytest.raises(ConfigError, match="got 0"):
        settings_of([0])


def test_no_conversation_is_no_evaluation() -> None:
    asked = CliRunner().invoke(app, ["eval", "recall", "--conversations", "0"])
    assert asked.exit_code == 2
    assert "greater than or equal" in asked.output
