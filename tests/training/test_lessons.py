"""Lessons: what is taught, what is asked, and what stays out of training."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

import pytest

from deltamem_agents.evaluation.tasks.learning import Learning
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training.curriculum import Curriculum
from deltamem_agents.training.lessons import Teacher, wordings
from deltamem_agents.training.rows import Kind, Tokeniser
from deltamem_agents.training.subjects import lexicon
from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.world import Turn, World

LISTED = [
    *(value for values in lexicon()["values"].values() for value in values if len(value) > 2),
    *lexicon()["people"],
]


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(ChatTemplate(build_tokenizer(0, conversations=500), "chatml"))


def lessons(count: int) -> list[tuple[list[Turn], list[Turn]]]:
    teacher = Teacher(random.Random(7))
    return [teacher.lesson() for _ in range(count)]


def masked(text: str, taught: Iterable[str]) -> str:
    """The sentence without its values, so that wordings can be compared."""
    words = sorted({*LISTED, *taught}, key=len, reverse=True)
    pattern = r"\b(" + "|".join(map(re.escape, words)) + r")\b"
    return re.sub(pattern, "_", text, flags=re.IGNORECASE).strip(".?!").casefold()


def test_no_wording_and_no_situation_of_the_evaluation_is_trained_on() -> None:
    taught = [turn for told, asked in lessons(600) for turn in [*told, *asked]]
    seen = {masked(turn.user, turn.values) for turn in taught}
    assert len(seen) > 60
    task = Learning(count=20)
    for episode in task.draw():
        answers = [answer for question in episode.questions for answer in question.answers]
        said = [m["content"] for m in episode.told if m["role"] == "user"]
        lesson = [text for text in said if any(answer in text for answer in answers)]
        assert lesson
        for text in [*lesson, *(question.text for question in episode.questions)]:
            assert masked(text, answers) not in seen
    for place in ("on Mondays", "at night", "in spring", "after lunch", "on a train"):
        assert not any(place in turn.user for turn in taught)


def test_every_question_can_be_answered_from_what_was_told() -> None:
    for told, asked in lessons(300):
        words = {value for turn in told for value in turn.values}
        assert asked
        for turn in asked:
            assert turn.kind == "question"
            assert set(turn.values) <= words
            assert turn.values[0] in turn.assistant


def test_most_questions_about_labels_are_about_things_that_were_not_shown() -> None:
    told_and_asked = [
        (" ".join(turn.user.casefold() for turn in told), turn.assistant.split(" is ")[0])
        for told, asked in lessons(300)
        for turn in asked
        if turn.assistant.split(" is ")[0] in LISTED
    ]
    new = [thing for told, thing in told_and_asked if thing.casefold() not in told]
    assert len(told_and_asked) > 200
    assert len(new) / len(told_and_asked) > 0.6


def test_without_lessons_the_conversations_are_those_of_before(tokeniser: Tokeniser) -> None:
    plain, taught = (
        Curriculum(World(3), tokeniser, tokens=600, level=2, lessons=share).batch(memory=True)
        for share in (0.0, 1.0)
    )
    again = Curriculum(World(3), tokeniser, tokens=600, level=2).batch(memory=True)
    assert plain.ids.tolist() == again.ids.tolist()
    assert taught.ids.tolist() != again.ids.tolist()
    assert (taught.kinds == Kind.ANSWERED_VALUE).any()


def test_wordings_name_lists_that_there_are() -> None:
    values = lexicon()["values"]
    assert set(wordings()["lists"]) | set(wordings()["traits"]) <= set(values)
    named = {name for _, name in wordings()["places"]} - {None, "people"}
    assert named <= set(values)
