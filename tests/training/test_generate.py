"""Made-up conversations: the same seed, true answers, held-out halves, and every knob turns."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from deltamem_agents.errors import ConfigError
from deltamem_agents.training.chats import chat_from
from deltamem_agents.training.generate import DataConfig, conversations
from deltamem_agents.training.subjects import held_out, lexicon, subjects

SMALL = DataConfig(conversations=150, seed=3)


def drawn(config: DataConfig) -> list[dict[str, Any]]:
    return list(conversations(config))


def answers(records: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each answer with its record."""
    return [(one, record) for record in records for one in record["about"]["answers"]]


def test_the_same_seed_draws_the_same() -> None:
    assert drawn(SMALL) == drawn(SMALL)
    assert drawn(SMALL) != drawn(replace(SMALL, seed=4))


def test_every_record_is_training_data_and_learns_its_answers() -> None:
    records = drawn(SMALL)
    assert len(records) == 150
    for record in records:
        chat = chat_from(json.loads(json.dumps(record)))
        assert set(chat.answers(99)) == {one["message"] for one in record["about"]["answers"]}


def test_the_answer_is_what_was_told_last() -> None:
    sentences = 0
    for one, record in answers(drawn(replace(SMALL, updates=0.6))):
        reply = record["messages"][one["message"]]["content"]
        earlier = [message["content"] for message in record["messages"][: one["message"]]]
        if one["kind"] == "unknown":
            subject = reply.removesuffix(f" is {lexicon()['unknown']}.")
            assert subject != reply
            said = [text for text in earlier if f"{subject} is " in text]
            assert all(text.endswith(reply) for text in said)  # nothing but asked for before
            continue
        told = record["messages"][one["message"] - one["distance"]]["content"]
        assert reply in told
        subject = reply.removesuffix(f" is {one['value']}.")
        said = [text for text in earlier if f"{subject} is " in text]
        assert f"{subject} is {one['value']}." in said[-1]
        sentences += 1
    assert sentences > 200


def test_test_data_hold_what_training_never_sees() -> None:
    kinds = {subject.named("your").lower(): subject for subject in subjects()}
    seen = {"train": 0, "test": 0}
    for split in ("train", "test"):
        for one, record in answers(drawn(replace(SMALL, split=split, updates=0.0))):  # type: ignore[arg-type]
            if one["kind"] == "unknown":
                continue
            reply = record["messages"][one["message"]]["content"]
            subject = kinds[reply.removesuffix(f" is {one['value']}.").lower()]
            assert held_out(subject, one["value"]) == (split == "test")
            seen[split] += 1
    assert min(seen.values()) > 150
    requests = [
        {m["content"].split()[0] for r in drawn(replace(SMALL, split=split, tools=1.0))  # type: ignore[arg-type]
         for m, after in zip(r["messages"], r["messages"][1:], strict=False)
         if after.get("tool_calls")}
        for split in ("train", "test")
    ]  # fmt: skip
    assert requests[0]
    assert requests[1]
    assert not requests[0] & requests[1]


def test_a_tool_result_tells_a_fact_the_user_never_says() -> None:
    records = drawn(replace(SMALL, tools=1.0, updates=0.0, near=0.0))
    told = 0
    for record in records:
        for place, message in enumerate(record["messages"]):
            if message["role"] != "tool":
                continue
            (value,) = json.loads(message["content"]).values()
            call, request = record["messages"][place - 1], record["messages"][place - 2]
            assert (
                call["tool_calls"][0]["function"]["name"] == record["tools"][0]["function"]["name"]
            )
            assert value not in request["content"].split()
            assert record["messages"][place + 1]["content"].endswith(f" is {value}.")
            told += 1
    assert told > 100


def share(records: list[dict[str, Any]], key: str, value: Any = True) -> float:
    found = [one[key] == value for one, _ in answers(records)]
    return sum(found) / len(found)


def test_the_knobs_turn() -> None:
    assert share(drawn(replace(SMALL, unknown=0.0)), "kind", "unknown") == 0
    assert share(drawn(replace(SMALL, unknown=0.6)), "kind", "unknown") > 0.4
    assert share(drawn(replace(SMALL, updates=0.0)), "revised") == 0
    assert share(drawn(replace(SMALL, updates=1.0)), "revised") > 0.4
    near = drawn(replace(SMALL, near=1.0, unknown=0.0, tail=0))
    assert sum(one["distance"] == 2 for one, _ in answers(near)) > 200
    distances = [
        [one["distance"] for one, _ in answers(drawn(replace(SMALL, tail=tail, far=1.0, near=0.0)))
         if one["distance"]]
        for tail in (0, 40)
    ]  # fmt: skip
    means = [sum(found) / len(found) for found in distances]
    assert means[1] > means[0] + 20
    facts = [len(r["messages"]) for r in drawn(replace(SMALL, facts=(8, 8), chats=0, tail=0))]
    assert min(facts) >= 2 * 4
    assert not any("tools" in record for record in drawn(replace(SMALL, tools=0.0)))


@pytest.mark.parametrize(
    "wrong",
    [{"split": "both"}, {"values": "some"}, {"facts": (3, 1)}, {"conversations": 0},
     {"unknown": 1.0}, {"tools": -0.1}, {"tail": -1}],
)  # fmt: skip
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DataConfig(**wrong)
