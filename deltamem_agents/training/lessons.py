"""Lessons: something is taught in a conversation and asked of a case that was never told.

A *label* is given to some things of a kind and asked of another of that kind, a *rule* ties a
value to a word and is asked of somebody who has that value, a *preference* is stated for a
situation and asked when it comes. The words that are taught are made up on the spot.

Held out of training: all sentences of `evaluation/tasks/learning.py`, and its situations.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from deltamem_agents.training.subjects import capital, lexicon
from deltamem_agents.training.world import Turn

KINDS = ("labels", "rules", "preferences")


@cache
def wordings() -> dict[str, Any]:
    """What lessons are told and asked in: per kind, patterns of the user and of the reply."""
    loaded: dict[str, Any] = json.loads(
        files("deltamem_agents.training").joinpath("lessons.json").read_text("utf-8")
    )
    return loaded


class Teacher:
    """Draws lessons and the questions about them.

    Args:
        chooser: the generator of the conversation's world.
    """

    def __init__(self, chooser: random.Random) -> None:
        self.random = chooser

    def lesson(self) -> tuple[list[Turn], list[Turn]]:
        """What is told, in any order, and what is asked after it."""
        kind = self.random.choice(KINDS)
        draw = {"labels": self._labels, "rules": self._rules, "preferences": self._preferences}
        told, asked = draw[kind](self.random.choice((1, 2, 2, 3, 3)))
        self.random.shuffle(told)
        self.random.shuffle(asked)
        return told, asked

    def _labels(self, choices: int) -> tuple[list[Turn], list[Turn]]:
        told, asked = [], []
        for name in self.random.sample(wordings()["lists"], choices):
            word = self._word()
            things = self._some(name, self.random.randint(2, 4) + 1)
            shown, new = things[:-1], things[-1]
            told += [self._turn("labels", "fact", word, thing) for thing in shown]
            for thing in (new, new, self.random.choice(things)):
                asked.append(self._turn("labels", "question", word, thing))
        return told, asked

    def _rules(self, choices: int) -> tuple[list[Turn], list[Turn]]:
        told, asked = [], []
        name, lives = self.random.choice(list(wordings()["traits"].items()))
        people = self.random.sample(lexicon()["people"], choices)
        for person, value in zip(people, self._some(name, choices), strict=True):
            word = self._word()
            trait = self.random.choice(lives).format(t=value)
            told.append(self._turn("rules", "fact", word, trait))
            said = capital(f"my {person} {trait}.")
            reply = capital(f"your {person} {trait}.")
            told.append(Turn(said, f"{self._heard()} {reply}", "fact", (value,)))
            for _ in range(2):
                asked.append(self._turn("members", "question", word, person))
        return told, asked

    def _preferences(self, choices: int) -> tuple[list[Turn], list[Turn]]:
        told, asked = [], []
        places: set[str] = set()
        for food in self._some("food", choices):
            place = next(p for p in iter(self._place, "") if p not in places)
            places.add(place)
            told.append(self._turn("preferences", "fact", food, place))
            asked += [self._turn("preferences", "question", food, place) for _ in range(2)]
        return told, asked

    def _turn(self, lesson: str, kind: str, taught: str, case: str) -> Turn:
        """A lesson ("fact") or a question; `{w}` is what is taught, `{t}` the case."""
        said, replied = wordings()[lesson]["told" if kind == "fact" else "asked"]
        text = self.random.choice(said).format(w=taught, t=case)
        reply = self.random.choice(replied).format(w=taught, t=case)
        end = "." if kind == "fact" else "?"
        if kind == "fact" and self.random.random() < 0.5:
            reply = f"{self._heard()} {capital(reply)}"
        return Turn(self._cased(text) + end, reply + ".", kind, (taught,))

    def _cased(self, text: str) -> str:
        return capital(text) if self.random.random() < 0.8 else text

    def _heard(self) -> str:
        return str(self.random.choice(lexicon()["acknowledgements"]))

    def _some(self, name: str, count: int) -> Sequence[str]:
        return self.random.sample(lexicon()["values"][name], count)

    def _word(self) -> str:
        syllables = self.random.sample(lexicon()["values"]["syllables"], 2)
        return "".join(syllables).capitalize()

    def _place(self) -> str:
        pattern, name = self.random.choice(wordings()["places"])
        listed = lexicon()["people"] if name == "people" else lexicon()["values"].get(name, [""])
        place: str = pattern.format(w=self.random.choice(listed))
        return self._place() if place in wordings()["kept out"] else place
