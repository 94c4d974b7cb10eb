"""Test-time learning: rules, labels and preferences taught in a talk and applied to new cases.

What is asked was never said: a *label* is shown on some things of a kind and asked of another of
that kind; a *rule* ties one attribute's value to an answer and is asked of somebody whose value was
told apart from it; a *preference* is stated for a situation and asked when the situation comes.
Words are those of the built-in model's world, so that a small model reads nothing unknown. The
right answer is one of `choices` that the same episode taught: guessing among them gives "chance".
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from deltamem_agents.evaluation.frame import (
    Episode,
    Held,
    Message,
    Question,
    Reply,
    Scores,
    Task,
)
from deltamem_agents.evaluation.metrics import says
from deltamem_agents.evaluation.tasks.talk import WorldTalk, exchange
from deltamem_agents.training.subjects import lexicon

Kind = Literal["labels", "rules", "preferences"]
KINDS: tuple[Kind, ...] = ("labels", "rules", "preferences")
_LISTS = ("animal", "food", "colour", "city", "job")
_PLACES = ("on Mondays", "at night", "in spring", "after lunch", "on a train", "when it rains")


class Learning(Task):
    """The task; see `frame.Task`.

    Args:
        kinds: of what is taught.
        choices: different answers taught in an episode.
        examples: how often each is shown (labels).
        noise: turns of small talk after the last lesson.
        count: episodes of each kind.
        seed: the same seed gives the same episodes.
    """

    name, max_tokens, metrics = "ttl", 32, ("right", "chance")

    def __init__(
        self,
        kinds: Sequence[Kind] = KINDS,
        *,
        choices: int = 3,
        examples: int = 3,
        noise: int = 12,
        count: int = 50,
        seed: int = 0,
    ) -> None:
        self.kinds, self.choices, self.examples = tuple(kinds), choices, examples
        self.noise, self.count, self.seed = noise, count, seed

    def draw(self) -> list[Episode]:
        """`count` episodes of each kind."""
        return [self._draw(kind, number) for kind in self.kinds for number in range(self.count)]

    def _draw(self, kind: Kind, number: int) -> Episode:
        seed = zlib.crc32(f"{self.seed} {kind} {number}".encode())
        random_ = random.Random(seed)
        teach = {"labels": _labels, "rules": _rules, "preferences": _preferences}[kind]
        lessons, asked = teach(random_, self.choices, self.examples)
        random_.shuffle(lessons)
        talk = WorldTalk(seed)
        turns = [*lessons, *(talk.noise() for _ in range(self.noise))]
        chance = 1 / self.choices
        questions = tuple(
            Question(text, (answer,), kind, {"chance": chance}, {"kind": kind, "chance": chance})
            for text, answer in asked
        )
        told = tuple(message for turn in turns for message in turn)
        return Episode(f"{kind} #{number}", told, questions, kind)

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Whether the answer is said, beside what guessing among the taught ones gives."""
        right = float(says(reply.text, question.answers[0]))
        return {"right": right, "chance": question.detail["chance"]}

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        return {
            "seed": self.seed, "kinds": list(self.kinds), "choices": self.choices,
            "examples": self.examples, "noise": self.noise, "count": self.count,
        }  # fmt: skip


Lessons = tuple[list[tuple[Message, ...]], list[tuple[str, str]]]


def _labels(random_: random.Random, choices: int, examples: int) -> Lessons:
    """A made-up word for each of some lists of things; asked of things that were not shown."""
    values = lexicon()["values"]
    names = random_.sample(_LISTS, choices)
    words = _made_up(random_, choices)
    lessons, asked = [], []
    for name, word in zip(names, words, strict=True):
        *shown, new = random_.sample(values[name], examples + 1)
        for thing in shown:
            lessons.append(exchange(f"The label of {thing} is {word}.", f"{thing} is {word}."))
        asked.append((f"What is the label of {new}?", word))
    return lessons, asked


def _rules(random_: random.Random, choices: int, examples: int) -> Lessons:
    """Who lives in a city gets a word: the city is told of a person, the word of the city."""
    values, people = lexicon()["values"], lexicon()["people"]
    lessons, asked = [], []
    cities, words = random_.sample(values["city"], choices), _made_up(random_, choices)
    for person, city, word in zip(random_.sample(people, choices), cities, words, strict=True):
        lessons.append(
            exchange(f"Who lives in {city} is in group {word}.", f"{city} is group {word}.")
        )
        lessons.append(exchange(f"My {person} lives in {city}.", f"Your {person}: {city}."))
        asked.append((f"Which group is my {person} in?", word))
    return lessons, asked


def _preferences(random_: random.Random, choices: int, examples: int) -> Lessons:
    """What is liked in a situation; asked as a request of somebody who is in it."""
    lessons, asked = [], []
    foods = random_.sample(lexicon()["values"]["food"], choices)
    for place, food in zip(random_.sample(_PLACES, choices), foods, strict=True):
        lessons.append(exchange(f"I like {food} {place}.", f"Noted. {food} {place}."))
        asked.append((f"Order something to eat for me, it is for {place}.", food))
    return lessons, asked


def _made_up(random_: random.Random, count: int) -> list[str]:
    syllables = lexicon()["values"]["syllables"]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(random_.sample(syllables, 2)).capitalize()] = None
    return list(found)
