"""The built-in model on held-out conversations: a short form of `deltamem eval recall`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deltamem_agents.evaluation.recall import evaluate
from deltamem_agents.evaluation.subjects import Reader
from deltamem_agents.evaluation.tasks.recall import UNKNOWN, Setting, converse
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.training.subjects import held_out, sentence
from deltamem_agents.training.world import World

ONE = Setting(1, controls=True, unknown=True)
FOUR = Setting(4, controls=True)
INVENTED = Setting(1, "invented")
SUBJECTS = ("memory", "off", "reset", "shuffled", "swapped")


@pytest.fixture(scope="module")
def engine() -> Any:
    return load_engine(context_window=256)


@pytest.fixture(scope="module")
def result(engine: Any) -> Any:
    return evaluate(engine, count=20, settings=(ONE, FOUR, INVENTED), subjects=SUBJECTS)


def test_conversations_are_held_out_and_their_facts_out_of_view(engine: Any) -> None:
    reader = Reader(engine)
    for seed in range(5):
        held = converse(reader, FOUR, seed)
        ledger = reader.read(held)[0].ledger
        assert len(held.questions) == 4
        assert held.about["distance"] >= 0
        visible = held.told[ledger.evicted_count :]
        assert len(visible) == len(ledger.visible)
        for question in held.questions:
            turn = question.detail["turn"]
            assert question.answers == (turn.assistant,)
            assert held_out(turn.subjects[0], turn.values[0])
            assert not any(turn.assistant in message["content"] for message in visible)


def test_the_replies_to_what_is_told_can_be_the_models_own(engine: Any) -> None:
    scripted, own = (converse(Reader(engine), FOUR, 7, own=one) for one in (False, True))
    assert [m for m in own.told if m["role"] == "user"] == [
        m for m in scripted.told if m["role"] == "user"
    ]
    assert own.questions == scripted.questions
    *_, last = engine.generate(None, [own.told[0]])
    assert last.message["content"] == own.told[1]["content"]
    *_, last = engine.generate(engine.read(None, own.told[:4]), own.told[:5])
    assert last.message["content"] == own.told[5]["content"]


def test_what_is_told_in_held_out_wordings_is_repeated_right(engine: Any) -> None:
    world, right = World(11, "test", "known"), 0
    for subject in world.draw_subjects(60):
        turn = world.fact(subject, world.value(subject))
        *_, last = engine.generate(None, [{"role": "user", "content": turn.user}])
        right += last.message["content"].endswith(sentence(subject, turn.values[0]))
    assert right >= 54


def test_facts_are_answered_from_the_memory(result: Any) -> None:
    one, four = result.row(ONE.name), result.row(FOUR.name)
    assert (one.answers, one.episodes, one.detail["facts"]) == (20, 20, 1)
    assert (four.answers, four.episodes) == (80, 20)
    assert one.value >= 0.9
    assert four.value >= 0.9
    assert result.row(INVENTED.name).value >= 0.7


def test_a_revised_fact_is_answered_with_what_holds_now(engine: Any) -> None:
    revised = Setting(2, revised=True)
    [question, _] = converse(Reader(engine), revised, 3).questions
    [old] = question.detail["old"]
    assert old not in question.answers[0]
    row = evaluate(engine, count=10, settings=(revised,), subjects=("memory",)).row(revised.name)
    assert row.figures["exact"].value >= 0.85
    assert row.figures["old"].value <= 0.05


def test_without_the_memory_nothing_is_known(result: Any) -> None:
    for subject in ("off", "reset", "shuffled"):
        for setting in (ONE, FOUR):
            assert result.row(setting.name, subject).value <= 0.05
    assert result.row(ONE.name, "swapped").value <= 0.15


def test_what_was_never_told_is_asked_of_the_memory_only(result: Any) -> None:
    asked = [row for row in result.rows if row.group.endswith(UNKNOWN)]
    assert [(row.subject, row.answers) for row in asked] == [("memory", 20)]
    assert 0 < asked[0].value <= 1


def test_state_bytes_do_not_grow_with_the_conversation(result: Any) -> None:
    about = json.loads(json.dumps(result.as_dict()))
    assert about["memory_bytes"]["least"] == about["memory_bytes"]["most"]
    assert about["tokens"]["most"] > 1.5 * about["tokens"]["least"]
    assert about["rows"][0]["interval"][0] < about["rows"][0]["exact"]
    assert about["costs"]["memory"]["bytes"] == about["memory_bytes"]["most"]
