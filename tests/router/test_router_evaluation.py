"""The router's own evaluation runs, and on phrasings it was built with it holds its figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.errors import ConfigError, FileFormatError
from deltamem_agents.evaluation.baselines.routed import NOT_TOLD, Routed
from deltamem_agents.evaluation.frame import Cost, Episode, Question, Reply
from deltamem_agents.evaluation.tasks.router import evaluate_router
from deltamem_agents.evaluation.tasks.router_locomo import load_locomo, recall, store_ranker
from deltamem_agents.router.features import Features
from deltamem_agents.router.policy import ROUTES, classifier


def test_known_phrasings_are_routed() -> None:
    figures = evaluate_router(seed=77, split="dev", threads=3).summary()
    assert figures["queries"] >= 90
    assert figures["exact answered verbatim"] >= 0.95
    assert figures["absent or another tenant's: abstains"] >= 0.95
    assert figures["absent: answered with a value"] == 0
    assert figures["diffuse: needless retrieval"] <= 0.1
    assert figures["citations valid"] == 1
    assert figures["hits across tenants"] == 0
    assert figures["hits after forget"] == 0


def test_probabilities_are_probabilities_and_follow_the_evidence() -> None:
    named = Features(
        asks=1, slot_asked=1, found=1, coverage=1, subject=1, attribute=1, named=1, gap=1, sure=1
    )
    unknown = Features(asks=1, slot_asked=1)
    for found, best in ((named, "exact"), (unknown, "abstain"), (Features(talks=1), "neural")):
        chances = classifier().probabilities(found)
        assert set(chances) == set(ROUTES)
        assert sum(chances.values()) == pytest.approx(1.0)
        assert max(chances, key=lambda route: chances[route]) == best


def test_locomo_is_read_and_ranked(tmp_path: Path) -> None:
    turns = [
        {"speaker": "Ana", "dia_id": "D1:1", "text": "I adopted a greyhound called Swift."},
        {"speaker": "Ben", "dia_id": "D1:2", "text": "We painted the kitchen yellow."},
    ]
    sample = {
        "sample_id": "s1",
        "conversation": {"session_1_date_time": "today", "session_1": turns},
        "qa": [
            {"question": "What colour is the kitchen?", "evidence": ["D1:2"]},
            {"question": "Unanswerable?", "evidence": []},
        ],
    }
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps([sample]))
    dialogues = load_locomo(path)
    assert dialogues[0].turns["D1:2"] == "Ben: We painted the kitchen yellow."
    assert recall(dialogues, store_ranker(tmp_path)) == {
        "recall@5": 1.0,
        "hit@5": 1.0,
        "questions": 1.0,
    }
    path.write_text("[{}]")
    with pytest.raises(FileFormatError, match=r"locomo10\.json"):
        load_locomo(path)


def test_the_store_alone_answers_what_it_was_told_and_nothing_else() -> None:
    told = ({"role": "user", "content": "my gate is B7"}, {"role": "assistant", "content": "Ok."})
    episode = Episode("one", told, ())
    with Routed("store", "store").hold(episode, episode) as held:
        assert held.ask(Question("What is my gate?"), 8).text == "Your gate is B7."
        assert held.ask(Question("What is my port?"), 8).text == NOT_TOLD
        assert held.cost.bytes > 0
        with pytest.raises(ConfigError, match="not probabilities"):
            held.likelihood(Question("What is my gate?"), "B7")


def test_both_ask_the_memory_with_the_facts_at_hand() -> None:
    """The store answers what is exact; the rest goes to the other subject, with quoted facts."""
    asked: list[str] = []

    class Echo:
        name, title, parallel = "echo", "echo", True

        @contextmanager
        def hold(self, episode: Episode, other: Episode) -> Iterator[Any]:
            yield self

        cost = Cost(bytes=7)

        def ask(self, question: Question, max_tokens: int) -> Reply:
            asked.append(question.text)
            return Reply("echoed")

    episode = Episode("one", ({"role": "user", "content": "my gate is B7"},), ())
    with Routed("both", "both", Echo()).hold(episode, episode) as held:  # type: ignore[arg-type]
        assert held.ask(Question("What is my gate?"), 8).text == "Your gate is B7."
        assert held.ask(Question("Tell me a joke."), 8).text == "echoed"
        assert held.ask(Question("Write a note with my gate in it."), 8).text == "echoed"
    assert asked[0] == "Tell me a joke."
    assert '"B7"' in asked[1]
    assert asked[1].endswith("Write a note with my gate in it.")
    assert held.cost.bytes > 7
