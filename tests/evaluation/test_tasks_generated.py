"""Generated tasks: what they tell and ask, and that their scores can fail."""

from __future__ import annotations

from typing import Any

import pytest

from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.frame import Question, Reply
from deltamem_agents.evaluation.metrics import says
from deltamem_agents.evaluation.tasks.capacity import Capacity
from deltamem_agents.evaluation.tasks.learning import KINDS, Learning
from deltamem_agents.evaluation.tasks.needle import Needle, Variables
from deltamem_agents.evaluation.tasks.talk import talk

NOBODY: Any = None


def told(episode: Any) -> str:
    return "\n".join(message["content"] for message in episode.told)


@pytest.mark.parametrize("style", ["world", "plain"])
def test_pairs_are_told_once_and_each_is_asked(style: str) -> None:
    task = Capacity((2, 5), count=3, style=style, seed=4)
    assert [len(episode.questions) for episode in task.episodes()] == [2] * 3 + [5] * 3
    for episode in task.episodes():
        assert len(episode.told) == 2 * len(episode.questions)
        for question in episode.questions:
            assert says(told(episode), question.answers[0])
            if style == "plain":  # in the world a teacher may be asked for their job
                assert not says(question.text, question.answers[0])
    again, other = Capacity((2, 5), count=3, style=style, seed=4), Capacity((2, 5), count=3, seed=5)
    assert again.episodes() == task.episodes()
    assert other.episodes() != task.episodes()
    with pytest.raises(ConfigError, match="style is one of"):
        talk("verse", 0)


def test_forgetting_tells_half_of_the_keys_again_and_counts_the_old_values() -> None:
    task = Capacity((4,), count=5, forgetting=True, style="plain")
    for episode in task.episodes():
        groups = [question.group for question in episode.questions]
        assert groups == ["4 pairs, told again", "4 pairs, kept"] * 2
        assert len(episode.told) == 2 * (4 + 2)
        again = episode.questions[0]
        old, new = again.detail["old"], again.answers[0]
        assert told(episode).index(old) < told(episode).index(new)
        assert task.score(NOBODY, again, Reply(f"It is {old}.")) == {"right": 0, "old value": 1}
        assert task.score(NOBODY, again, Reply(f"It is {new}.")) == {"right": 1, "old value": 0}
        kept = episode.questions[1]
        assert task.score(NOBODY, kept, Reply(kept.answers[0])) == {"right": 1}


def test_a_needle_lies_where_its_depth_says_in_a_talk_of_its_length() -> None:
    task = Needle((100, 400), (0.0, 0.5, 1.0), needles=2, count=2, style="plain")
    places: dict[str, list[float]] = {}
    sizes: dict[int, list[int]] = {}
    for episode in task.episodes():
        (question,) = episode.questions
        at = next(i for i, m in enumerate(episode.told) if question.answers[0] in m["content"])
        places.setdefault(question.group, []).append(at / len(episode.told))
        sizes.setdefault(question.row["length"], []).append(len(told(episode).split()))
        assert told(episode).count("special magic number") == 2
    assert max(places["400 tokens, depth 0.00"]) < 0.2
    assert min(places["400 tokens, depth 1.00"]) > 0.8
    assert all(0.3 < place < 0.7 for place in places["400 tokens, depth 0.50"])
    assert min(sizes[400]) > 2.5 * max(sizes[100])


def test_variables_are_chained_in_order_and_scored_by_share() -> None:
    task = Variables((200,), hops=2, chains=3, count=4)
    for episode in task.episodes():
        (question,) = episode.questions
        first, second, third = question.answers
        text = told(episode)
        assert text.index(f"VAR {first} = ") < text.index(f"VAR {second} = VAR {first}")
        assert text.index(f"VAR {second} = VAR {first}") < text.index(f"VAR {third} = VAR {second}")
        assert text.count("VAR ") == 3 * (1 + 2 + 2)
        assert task.score(NOBODY, question, Reply(f"{first}, {third}"))["right"] == pytest.approx(
            2 / 3
        )


def test_what_was_taught_is_asked_of_cases_that_were_not_said() -> None:
    task = Learning(count=6, choices=3, examples=2, noise=4)
    by_kind: dict[str, list[Question]] = {kind: [] for kind in KINDS}
    for episode in task.episodes():
        text = told(episode)
        assert len({question.answers for question in episode.questions}) == 3
        for question in episode.questions:
            assert says(text, question.answers[0])
            assert not says(question.text, question.answers[0])
            assert question.text not in text
            by_kind[question.group].append(question)
            if question.group == "labels":
                thing = question.text.removeprefix("What is the label of ").rstrip("?")
                lessons = [m["content"] for m in episode.told if "label" in m["content"]]
                assert len(lessons) == 6
                assert not any(says(lesson, thing) for lesson in lessons)
    assert {kind: len(asked) for kind, asked in by_kind.items()} == dict.fromkeys(KINDS, 18)
    right = task.score(NOBODY, by_kind["rules"][0], Reply(by_kind["rules"][0].answers[0]))
    assert right == {"right": 1.0, "chance": 1 / 3}
    assert task.score(NOBODY, by_kind["rules"][0], Reply("no idea"))["right"] == 0.0
