"""The many wordings of training: a clause of an attribute, put into a frame, drawn anew each time.

`phrasings.json` holds clauses ("{e} ~live in {v}", "in which town" x "live") and frames ("I was
wondering {q}"); what comes out is their product, tens of thousands of wordings an attribute. All of
it is for training. `everyday.json` holds whole sentences and questions besides, as people type
them. Tests ask in the lexicon's held-out wordings, which as a whole never come out of here, though
single words of them may.

In a pattern {e} is the entity ("I", "my sister", "the billing service"), {obj} the same as an
object, {poss} its genitive, {v} the value; {they}, {them} and {their} are its pronouns. "~" stands
before a verb that follows the entity; {do}, {is} and {has} are such verbs before it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from functools import cache
from typing import Any

from deltamem_agents.training.subjects import Subject, lexicon, words_of

_IRREGULAR = {"be": "is", "have": "has", "do": "does", "go": "goes"}
_CARRIED, _CLOSED = 0.4, 0.12
_EVERYDAY = 0.4
_WOMEN = frozenset(("sister", "mother", "aunt", "grandmother", "daughter"))
_MEN = frozenset(("brother", "father", "uncle", "grandfather", "son"))


def phrasings() -> dict[str, Any]:
    """Clauses and frames, for training only."""
    return words_of("phrasings.json")


def everyday() -> dict[str, Any]:
    """Whole sentences and questions, by group and attribute; for training only."""
    return words_of("everyday.json")


@cache
def fingerprint() -> str:
    """A digest of all the words that training draws from: what a snapshot was made with."""
    said = json.dumps([lexicon(), phrasings(), everyday()], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def third_person(verb: str) -> str:
    """The verb's form after "my sister"."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb.endswith("y") and verb[-2] not in "aeou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "o")) else "s")


def filled(pattern: str, subject: Subject, value: str = "") -> str:
    """A pattern with its entity, its verbs in the entity's person, and its value."""
    mine = subject.entity == "me"
    entity = "I" if mine else subject.holder("my")

    def inflected(verb: str) -> str:
        return ("am" if verb == "be" else verb) if mine else third_person(verb)

    text = re.sub(r"~(\w+)", lambda found: inflected(found[1]), pattern)
    they, them, their = _pronouns(subject, pattern)
    named = {
        "{do}": inflected("do"), "{is}": inflected("be"), "{has}": inflected("have"),
        "{they}": they, "{them}": them, "{their}": their, "{e}": entity,
        "{poss}": "my" if mine else f"{entity}'s", "{obj}": "me" if mine else entity,
    }  # fmt: skip
    for name, words in named.items():
        text = text.replace(name, words)
    return text.replace("{v}", value)


def _pronouns(subject: Subject, pattern: str) -> tuple[str, str, str]:
    """As subject, as object, and the possessive; a coach is she in one pattern, he in another."""
    if subject.entity == "me":
        return "I", "me", "my"
    if subject.entity in lexicon()["services"]:
        return "it", "it", "its"
    she = subject.entity in _WOMEN or (subject.entity not in _MEN and len(pattern) % 2 == 0)
    return ("she", "her", "her") if she else ("he", "him", "his")


class Phraser:
    """Draws wordings.

    Args:
        chooser: the generator of the conversation's world.
    """

    def __init__(self, chooser: random.Random) -> None:
        self.random, self.frames = chooser, phrasings()
        self.clauses, self.everyday = self.frames["attributes"], everyday()

    def statement(self, subject: Subject, value: str) -> str:
        """The user tells a value."""
        if self.random.random() < _EVERYDAY:
            return filled(self._choose(_own(self.everyday, subject)["told"]), subject, value)
        if self.random.random() < 0.45:
            said = self._named("known_as", subject, value)
        else:
            said = filled(self._choose(_own(self.clauses, subject)["told"]), subject, value)
        if self.random.random() < _CARRIED:
            said = f"{self._frame('carriers')} {said}"
        if self.random.random() < _CLOSED:
            said = f"{said}, {self._frame('closings')}"
        return said

    def update(self, subject: Subject, value: str) -> str:
        """The user tells a value that takes the place of another."""
        if self.random.random() < 0.3:
            said = filled(self._choose(_own(self.clauses, subject)["told"]), subject, value)
        else:
            said = self._named("known_now", subject, value)
        return f"{self._frame('corrections')} {said}"

    def question(self, subject: Subject) -> str:
        """The user asks, without the question mark."""
        if self.random.random() < _EVERYDAY:
            asked = filled(self._choose(_own(self.everyday, subject)["asked"]), subject)
            framed = self.random.random() < 0.25
            return self._frame("asked_so").replace("{q}", asked) if framed else asked
        if self.random.random() < 0.5:
            return self._frame("asked_for").replace("{n}", self._noun(subject))
        group = self._choose(_own(self.clauses, subject)["asked"])
        asks = self._choose(group["wh"])
        [kind] = group.keys() - {"wh"}
        rest = self._choose(group[kind])
        indirect = kind != "of" and self.random.random() < 0.5
        clause = filled(_clause(asks, kind, rest, subject.entity == "me", indirect), subject)
        return self._frame("asked_that" if indirect else "asked_so").replace("{q}", clause)

    def _named(self, frame: str, subject: Subject, value: str) -> str:
        return self._frame(frame).replace("{n}", self._noun(subject)).replace("{v}", value)

    def _noun(self, subject: Subject) -> str:
        """The subject as a noun: by its own name half of the time, else by a synonym."""
        roll = self.random.random()
        if roll < 0.5:
            return subject.named("my")
        noun = (
            subject.attribute if roll < 0.62 else self._choose(_own(self.clauses, subject)["nouns"])
        )
        if roll < 0.75:
            return f"the {noun} of " + ("mine" if subject.entity == "me" else subject.holder("my"))
        return filled("{poss} ", subject) + noun

    def _frame(self, name: str) -> str:
        frame: str = self._choose(self.frames[name])
        return frame

    def _choose(self, listed: list[Any]) -> Any:
        return self.random.choice(listed)


def _own(groups: dict[str, Any], subject: Subject) -> dict[str, Any]:
    """What a tree of groups and attributes has of the subject's."""
    group = "service" if subject.entity in lexicon()["services"] else "person"
    own: dict[str, Any] = groups[group][subject.attribute]
    return own


def _clause(asks: str, kind: str, rest: str, mine: bool, indirect: bool) -> str:
    """A question's clause: "where does {e} live", or indirectly "where {e} ~live"."""
    if kind in ("sub", "of"):
        return f"{asks} {rest}"
    if indirect:
        return f"{asks} {{e}} ~be {rest}" if kind == "be" else f"{asks} {{e}} ~{rest}"
    if kind == "be":
        return f"{asks} {'am' if mine else 'is'} {{e}} {rest}"
    return f"{asks} {'do' if mine else 'does'} {{e}} {rest}"
