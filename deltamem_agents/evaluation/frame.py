"""The frame that every task and every subject fits into.

A *task* gives episodes (what is told, what is asked, which answers count) and scores an answer. A
*subject* (a memory, one of its controls, a baseline) is told an episode and then answers each of
its questions on its own, as if the others had not been asked. `runner.run` brings them together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

Message = Mapping[str, Any]
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Question:
    """Something that is asked.

    Args:
        text: what the user says.
        answers: what counts as right; what that means is the task's affair.
        group: the line of the table that it counts in.
        detail: what else the task needs for scoring.
        row: what the result's file says of its line beside the figures.
    """

    text: str
    answers: tuple[str, ...] = ()
    group: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Episode:
    """One conversation, or one document, with what is asked about it.

    Args:
        name: its own in the run; a run that was stopped goes on by it.
        told: chat messages, oldest first; without a system message.
        questions: each asked on a fork of its own.
        family: episodes of one family may lend each other their memories (control "swapped").
        about: what is known of it, for the result's file.
    """

    name: str
    told: tuple[Message, ...]
    questions: tuple[Question, ...]
    family: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer and what it took.

    Args:
        text: the answer.
        prompt_tokens: tokens in view when it was given, template and question included.
        seconds: how long it took.
    """

    text: str
    prompt_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What a subject needs for one episode.

    Args:
        parameters: trained numbers beside the backbone.
        bytes: kept of the conversation when nothing of it is in view.
        read_tokens: tokens that models read or wrote before the first question.
        seconds: how long that took.
    """

    parameters: int = 0
    bytes: int = 0
    read_tokens: int = 0
    seconds: float = 0.0


class Held(Protocol):
    """An episode that a subject was told."""

    @property
    def cost(self) -> Cost:
        """What it took and takes."""

    def ask(self, question: Question, max_tokens: int) -> Reply:
        """Answer; no trace of it stays."""

    def likelihood(self, question: Question, answer: str) -> tuple[float, int]:
        """Log-probability (nats) of an answer to a question, and its number of tokens."""


class Subject(Protocol):
    """What is measured.

    Attributes:
        name: its own in the run.
        title: what the table calls it.
        parallel: whether several episodes may be held at once.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def parallel(self) -> bool: ...

    def hold(self, episode: Episode, other: Episode) -> AbstractContextManager[Held]:
        """Be told an episode.

        Args:
            episode: what is told and asked.
            other: another of its family, for subjects that answer with the wrong memory.
        """


class Task(ABC):
    """What is asked.

    Attributes:
        name: the task's name.
        max_tokens: of an answer; 0 where nothing is generated.
        metrics: what `score` gives, the first one first in the table.
        pairs: (subject, subject, metric): differences, question by question, to report.
    """

    name: str
    max_tokens: int
    metrics: tuple[str, ...]
    pairs: tuple[tuple[str, str, str], ...] = ()

    def episodes(self) -> Sequence[Episode]:
        """All episodes, the same on every call."""
        return self._drawn

    @cached_property
    def _drawn(self) -> list[Episode]:
        return list(self.draw())

    @abstractmethod
    def draw(self) -> Iterable[Episode]:
        """Make or read the episodes; always the same ones."""

    @abstractmethod
    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Judge an answer.

        Returns:
            The metrics that apply to this question, by name.
        """

    def wants(self, question: Question, subject: str) -> bool:
        """Whether this question is put to this subject."""
        return True

    def about(self) -> Mapping[str, Any]:
        """What decides the task, as JSON values: a run that was stopped goes on only with these."""
        return {}


def pick_other(episodes: Sequence[Episode]) -> dict[str, Episode]:
    """For each episode by name the next one of its family, the first after the last.

    An episode without a family gets the next one of all; a single episode gets itself.
    """
    families: dict[str, list[Episode]] = {}
    for episode in episodes:
        families.setdefault(episode.family, []).append(episode)
    found = {}
    for place, episode in enumerate(episodes):
        family = families[episode.family]
        if len(family) > 1:
            found[episode.name] = family[(family.index(episode) + 1) % len(family)]
        else:
            found[episode.name] = episodes[(place + 1) % len(episodes)]
    return found
