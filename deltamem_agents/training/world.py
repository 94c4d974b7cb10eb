"""A small made-up world that people talk about: the training and test conversations.

A *subject* is an entity with an attribute ("your sister's locker code", "the billing service's
port"). Users tell values of subjects in many phrasings, change them, chat about other things and
ask. The assistant repeats what it was told in one canonical sentence ("Your sister's locker code
is 482.") and answers with that same sentence, so that whether and what it knows is decided at one
position: after "is".

What is held out of all training, so that a test on it means something:
  - one in five (entity, attribute, value) triples, by a hash, invented values included;
  - the last phrasings of every list of the lexicon.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from deltamem_agents.training.phrasing import Phraser
from deltamem_agents.training.subjects import (
    INVENTED_KINDS,
    Subject,
    capital,
    held_out,
    lexicon,
    sentence,
    subjects,
)
from deltamem_agents.training.unheard import Unheard
from deltamem_agents.training.values import Drawn, Values

Split = Literal["train", "test"]
_COMPOSED = 0.7
_FREE = 0.15


@dataclass(frozen=True)
class Turn:
    """A user message and the assistant's reply.

    Attributes:
        values: the value strings that the texts carry, for weighting and for the write penalty.
        kind: "fact", "update", "question", "unknown", "tool" or "chat"; "answer" is a question
            that could have been refused, "refusal" one that was.
        subjects: what the turn is about, in the order of the values.
        unheard: words of the user that the model is to take for words it never heard.
    """

    user: str
    assistant: str
    kind: str
    values: tuple[str, ...] = ()
    subjects: tuple[Subject, ...] = ()
    unheard: tuple[str, ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """The turn as chat messages."""
        return [
            {"role": "user", "content": self.user},
            {"role": "assistant", "content": self.assistant},
        ]


class World:
    """Draws turns and conversations, all from one seed.

    Args:
        seed: the same seed gives the same conversations.
        split: "train" draws allowed triples and phrasings, "test" held-out ones only.
        values: closed lists of words ("known"), values made up on the spot ("invented"), or both.
        unheard: the chance that what is told is told in words never heard, where the values alone
            say what is meant; see `Unheard`.
    """

    def __init__(
        self, seed: int, split: Split = "train", values: Values = "all", *, unheard: float = 0.0
    ) -> None:
        self.random = random.Random(seed)
        self.split, self.values = split, values
        self.unheard = Unheard(self.random, unheard)
        self.words = lexicon()
        self.phraser = Phraser(self.random)
        free = _FREE if (split, values) == ("train", "all") else 0.0
        self.drawn = Drawn(self.random, values, free)
        self.pool = [s for s in subjects() if self._has_values(s)]

    def _has_values(self, subject: Subject) -> bool:
        listed = self.words["values"].get(subject.kind)
        if self.split == "test" and listed and not any(held_out(subject, v) for v in listed):
            return False  # a list as short as a week's days may hold no held-out value
        if self.values == "all" or subject.kind == "fullname":
            return True
        return (subject.kind in INVENTED_KINDS) == (self.values == "invented")

    # ------------------------------------------------------------------ values

    def value(self, subject: Subject, other_than: str | None = None) -> str:
        """A value for the subject, from the split's side of the hash."""
        for _ in range(400):
            drawn = self.drawn.value(subject.kind)
            if drawn != other_than and held_out(subject, drawn) == (self.split == "test"):
                return drawn
        # A short list may hold only one such value: then a revision takes any other.
        return next(v for v in iter(lambda: self.drawn.listed(subject.kind), "") if v != other_than)

    # ------------------------------------------------------------------- turns

    def fact(self, subject: Subject, value: str, *, update: bool = False) -> Turn:
        """The user tells a value; the assistant confirms it."""
        text, unheard = self.unheard.told(
            self._statement(subject, value, update), ((subject, value),)
        )
        opening = self.random.choice(self.words["acknowledgements"])
        reply = f"{opening} {sentence(subject, value)}"
        kind = "update" if update else "fact"
        return Turn(self._spoken(text) + ".", reply, kind, (value,), (subject,), unheard)

    def facts(self, told: Sequence[tuple[Subject, str]]) -> Turn:
        """Several values told in one message."""
        text, unheard = self.unheard.told(
            " and ".join(self._statement(s, v, False) for s, v in told), told
        )
        reply = " ".join(
            [self.random.choice(self.words["acknowledgements"]), *(sentence(s, v) for s, v in told)]
        )
        about, values = zip(*told, strict=True)
        return Turn(self._spoken(text) + ".", reply, "fact", values, about, unheard)

    def question(self, subject: Subject, value: str | None) -> Turn:
        """The user asks; the assistant answers, or says that it was never told (value None)."""
        text = self._question(subject) + "?"
        kind = "unknown" if value is None else "question"
        values = () if value is None else (value,)
        return Turn(self._spoken(text), sentence(subject, value), kind, values, (subject,))

    def chat(self) -> Turn:
        """Talk that tells nothing."""
        chat, choose = self.words["chat"], self.random.choice
        roll = self.random.random()
        if roll < 0.2:
            text, reply = choose(chat["fixed"])
            return Turn(self._spoken(text) + choose(["", ".", "!"]), reply, "chat")
        if roll < 0.35:
            kind = choose(["food", "city", "animal", "codename", "colour", "hobby", "job"])
            text = choose(chat["mentions"]).format(
                v=choose(self.words["values"][kind]), t=choose(chat["times"])
            )
        else:
            text = choose(chat["openers"]).format(
                n=choose(chat["subjects"]), w=choose(chat["were"]), t=choose(chat["times"])
            )
        return Turn(
            self._spoken(text.strip()) + choose([".", ".", "!"]), choose(chat["replies"]), "chat"
        )

    def _question(self, subject: Subject) -> str:
        if self._phrased():
            return self.phraser.question(subject)
        own = self._specific(subject)[1]
        shared = self._pick("questions")
        pattern = self._of(own) if self.random.random() < 0.45 and own else shared
        return self._fill(pattern, subject, None)

    def _statement(self, subject: Subject, value: str, update: bool) -> str:
        if self._phrased():
            phrase = self.phraser.update if update else self.phraser.statement
            return phrase(subject, value)
        own = self._specific(subject)[0]
        pattern = self._pick("updates" if update else "statements")
        if not update and own and self.random.random() < 0.45:
            pattern = self._of(own)
        return self._fill(pattern, subject, value)

    def _phrased(self) -> bool:
        """Whether a wording is composed; tests and the rest of training take the lexicon's."""
        return self.split == "train" and self.random.random() < _COMPOSED

    def _specific(self, subject: Subject) -> tuple[list[str], list[str]]:
        group = "service" if subject.entity in self.words["services"] else "person"
        _, told, asked = self.words["attributes"][group][subject.attribute]
        return told, asked

    def _of(self, patterns: list[str]) -> str:
        """One of an attribute's own phrasings; the last of three or more is held out."""
        if len(patterns) < 3:
            return self.random.choice(patterns)
        return patterns[-1] if self.split == "test" else self.random.choice(patterns[:-1])

    def _pick(self, name: str) -> str:
        kept = self.words[f"{name}_held_out"] if self.split == "test" else self.words[name]
        return str(self.random.choice(kept))

    def _fill(self, pattern: str, subject: Subject, value: str | None) -> str:
        if "|" in pattern:
            pattern = pattern.split("|")[0 if subject.entity == "me" else 1]
        filled = pattern.replace("{s}", subject.named("my")).replace("{e}", subject.holder("my"))
        filled = filled.replace("{a}", subject.attribute)
        return filled.replace("{v}", value or "")

    def _spoken(self, text: str) -> str:
        text = self.random.choice(self.words["prefixes"]) + text
        return capital(text) if self.random.random() < 0.75 else text

    # ----------------------------------------------------------- conversations

    def draw_subjects(self, count: int, alike: float = 0.4) -> list[Subject]:
        """Distinct subjects; with probability `alike` several share one attribute."""
        chosen: list[Subject] = []
        if count > 1 and self.random.random() < alike:
            attribute = self.random.choice(self.pool).attribute
            same = [s for s in self.pool if s.attribute == attribute]
            chosen = self.random.sample(same, min(len(same), count, self.random.randint(2, 4)))
        while len(chosen) < count:
            subject = self.random.choice(self.pool)
            if subject not in chosen:
                chosen.append(subject)
        self.random.shuffle(chosen)
        return chosen

    def unknown(self, known: Sequence[Subject]) -> Subject:
        """A subject never told, half of the time close to one that was."""
        while True:
            subject = self.random.choice(self.pool)
            if known and self.random.random() < 0.5:
                near = self.random.choice(known)
                subject = replace(near, entity=subject.entity)
                if subject not in self.pool:
                    continue
            if subject not in known:
                return subject

    def history(
        self,
        facts: int,
        chats: int,
        *,
        updates: float = 0.15,
        pairs: float = 0.15,
        alike: float = 0.4,
    ) -> tuple[list[Turn], dict[Subject, str]]:
        """Turns that tell facts among chat, and what holds after them.

        Args:
            facts: how many subjects are told.
            chats: how many chat turns lie between.
            updates: the chance that a told subject is changed later.
            pairs: the chance that two subjects are told in one message.
            alike: see `draw_subjects`.
        """
        steps: list[list[Subject]] = []
        waiting = self.draw_subjects(facts, alike)
        while waiting:
            size = 2 if len(waiting) > 1 and self.random.random() < pairs else 1
            steps.append(waiting[:size])
            waiting = waiting[size:]
        steps += [[] for _ in range(chats)]
        self.random.shuffle(steps)
        truth: dict[Subject, str] = {}
        turns: list[Turn] = []
        due: list[Subject] = []
        for step in steps:
            turns.append(self._tell(step, truth))
            due += [s for s in step if self.random.random() < updates]
            if due and self.random.random() < 0.5:
                turns.append(self._change(due.pop(), truth))
        turns += [self._change(subject, truth) for subject in due]
        return turns, truth

    def _tell(self, step: list[Subject], truth: dict[Subject, str]) -> Turn:
        if not step:
            return self.chat()
        told = [(subject, self.value(subject)) for subject in step]
        truth.update(told)
        return self.facts(told) if len(told) > 1 else self.fact(*told[0])

    def _change(self, subject: Subject, truth: dict[Subject, str]) -> Turn:
        truth[subject] = self.value(subject, truth[subject])
        return self.fact(subject, truth[subject], update=True)

    def questions(self, truth: dict[Subject, str], unknown: float = 0.25) -> Iterator[Turn]:
        """Questions without end: each known subject in turn, some about what was never told."""
        order = list(truth)
        self.random.shuffle(order)
        while True:
            for subject in order:
                while self.random.random() < unknown:
                    yield self.question(self.unknown(order), None)
                yield self.question(subject, truth[subject])
