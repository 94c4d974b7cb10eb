"""The conversation that the demo holds, as it stands in `conversation.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

THREAD = "demo"
WINDOW = 256
"""Visible tokens of the demo's agent."""


@dataclass(frozen=True)
class Told:
    """A fact that the conversation tells.

    Args:
        turn: index of the user's message that tells it.
        entity: whose, as the training world names it.
        attribute: what of it.
        value: what it is.
        question: how the second process asks for it.
    """

    turn: int
    entity: str
    attribute: str
    value: str
    question: str


@dataclass(frozen=True)
class Branches:
    """Two ways in which the conversation goes on.

    Args:
        entity: whose fact is told in both.
        attribute: what of it.
        told: (value, message that tells it) of each branch.
        turns: messages that follow in both, so that what was told leaves the window.
        question: asked at the end of both.
    """

    entity: str
    attribute: str
    told: tuple[tuple[str, str], ...]
    turns: tuple[str, ...]
    question: str


@dataclass(frozen=True)
class Script:
    """What the demo says.

    Args:
        turns: the user's messages, in order.
        facts: what they tell and what is asked.
        branches: how the conversation forks.
        forget: index of the fact that is forgotten.
    """

    turns: tuple[str, ...]
    facts: tuple[Told, ...]
    branches: Branches
    forget: int


def load_script() -> Script:
    """Read the shipped conversation."""
    text = files("deltamem_agents.cli").joinpath("conversation.json").read_text("utf-8")
    values: dict[str, Any] = json.loads(text)
    fork = values["branches"]
    return Script(
        turns=tuple(values["turns"]),
        facts=tuple(Told(**fact) for fact in values["facts"]),
        branches=Branches(
            entity=fork["entity"],
            attribute=fork["attribute"],
            told=tuple((told["value"], told["text"]) for told in fork["told"]),
            turns=tuple(fork["turns"]),
            question=fork["question"],
        ),
        forget=values["forget"],
    )
