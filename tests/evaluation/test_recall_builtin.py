"""The built-in model on held-out conversations: a short form of `deltamem eval recall`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deltamem_agents.evaluation.recall import evaluate
from deltamem_agents.evaluation.tasks.recall import Setting, converse, steps
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.training.subjects import held_out

ONE = Setting(1, rows=("memory", "reset", "swapped", "unknown"))
FOUR = Setting(4, rows=("memory", "reset"))
INVENTED = Setting(1, "invented", rows=("reset",))


@pytest.fixture(scope="module")
def engine() -> Any:
    return load_engine(context_window=256)


@pytest.fixture(scope="module")
def result(engine: Any) -> Any:
    ticks: list[None] = []
    settings = (ONE, FOUR, INVENTED)
    found = evaluate(
        engine, count=40, settings=settings, full=False, tick=lambda: ticks.append(None)
    )
    assert len(ticks) == steps(settings, 40, full=False) == 40 * (7 + 3)
    return found


def test_conversations_are_held_out_and_their_facts_out_of_view(engine: Any) -> None:
    for seed in range(5):
        held = converse(engine, FOUR, seed)
        assert len(held.questions) == 4
        assert held.distance >= 0
        gone = held.memory.ledger.evicted_count
        visible = held.messages[gone:]
        assert len(visible) == len(held.memory.ledger.visible)
        for turn in held.questions:
            assert held_out(turn.subjects[0], turn.values[0])
            assert not any(turn.assistant in message["content"] for message in visible)


def test_one_fact_is_answered_from_the_memory(result: Any) -> None:
    assert result.row(1).share.total == 40
    assert result.row(1).share.value >= 0.9


def test_four_facts_are_answered_from_the_memory(result: Any) -> None:
    assert result.row(4).share.total == 160
    assert result.row(4).share.value >= 0.5


def test_without_the_memory_nothing_is_known(result: Any) -> None:
    assert result.row(1, "reset").share.value <= 0.05
    assert result.row(4, "reset").share.value <= 0.05
    assert result.row(1, "reset", "invented").share.value <= 0.05
    assert result.row(1, "swapped").share.value <= 0.1


def test_state_bytes_do_not_grow_with_the_conversation(result: Any) -> None:
    about = json.loads(json.dumps(result.as_dict()))
    assert about["memory_bytes"]["least"] == about["memory_bytes"]["most"]
    assert about["tokens"]["most"] > 1.5 * about["tokens"]["least"]
    assert about["rows"][0]["interval"][0] < about["rows"][0]["exact"]
