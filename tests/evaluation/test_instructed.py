"""Asking under system prompts: what counts, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from deltamem_agents.evaluation.tasks import instructed
from deltamem_agents.evaluation.tasks.instructed import (
    ANSWERED,
    CALLED,
    REFUSED,
    evaluate_instructed,
)
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.testing import tiny_engine
from deltamem_agents.training.instructions import Instruction
from deltamem_agents.training.world import World


def test_random_weights_obey_nothing() -> None:
    ticks: list[None] = []
    engine = tiny_engine(context_window=900)
    found = evaluate_instructed(engine, refusals=1, calls=1, tick=lambda: ticks.append(None))
    assert [(share.right, share.total) for share in found.values()] == [(0, 1)] * 3
    assert list(found) == [REFUSED, ANSWERED, CALLED]
    assert len(ticks) == 2


def test_who_always_refuses_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refusing(engine: Any, prompt: Instruction, told: Any, text: str) -> dict[str, Any]:
        assert prompt.refusal in prompt.text
        asked.append(text)
        return {"content": prompt.refusal}

    monkeypatch.setattr(instructed, "_said", refusing)
    found = evaluate_instructed(World, refusals=5, calls=0)  # type: ignore[arg-type]
    assert (found[REFUSED].right, found[ANSWERED].right) == (5, 0)
    assert len(set(asked)) == 10


def test_a_call_counts_by_name_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def calling(engine: Any, prompt: Instruction, told: Any, text: str) -> dict[str, Any]:
        [tool] = prompt.tools
        names.append(tool.name)
        return {"content": "", "tool_calls": [{"function": {"name": tool.name, "arguments": {}}}]}

    monkeypatch.setattr(instructed, "_said", calling)
    found = evaluate_instructed(World, refusals=0, calls=8)  # type: ignore[arg-type]
    assert (found[CALLED].right, found[CALLED].total) == (0, 8)  # the value is missing
    parsed = instructed._calls(
        {"tool_calls": [{"function": {"name": "run", "arguments": '{"x": 4}'}}]}
    )
    assert (
        parsed
        == [("run", {"x": 4})]
        == instructed._calls({"tool_calls": [{"function": {"name": "run", "arguments": {"x": 4}}}]})
    )
    assert instructed._calls({"content": "Sorry."}) == []
    assert len(set(names)) > 3


def test_the_built_in_model_obeys_more_often_than_not() -> None:
    found = evaluate_instructed(load_engine(context_window=512), refusals=10, calls=20)
    assert found[REFUSED].right >= 7
    assert found[ANSWERED].right >= 6
    assert found[CALLED].right >= 15
