"""What can be told in the made-up world: subjects, their sentence, what is held out."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

INVENTED_KINDS = ("digits", "code", "invented", "phrase", "version")


@dataclass(frozen=True)
class Subject:
    """An entity and one of its attributes."""

    entity: str
    attribute: str
    kind: str

    def named(self, owner: Literal["my", "your"]) -> str:
        """The subject in words, from the user's ("my") or the assistant's ("your") side."""
        if self.entity == "me":
            return f"{owner} {self.attribute}"
        return f"{self.holder(owner)}'s {self.attribute}"

    def holder(self, owner: Literal["my", "your"]) -> str:
        """The entity in words."""
        if self.entity in lexicon()["services"]:
            return f"the {self.entity} service"
        return f"{owner} {self.entity}"


@cache
def words_of(file: str) -> dict[str, Any]:
    """One of the files of words and wordings beside this module."""
    text = files("deltamem_agents.training").joinpath(file).read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def lexicon() -> dict[str, Any]:
    """The words and phrasings that the world is made of."""
    return words_of("lexicon.json")


@cache
def subjects() -> tuple[Subject, ...]:
    """Every subject of the world."""
    words = lexicon()
    people = [
        Subject(entity, name, spec[0])
        for entity in ["me", *words["people"]]
        for name, spec in words["attributes"]["person"].items()
    ]
    services = [
        Subject(entity, name, spec[0])
        for entity in words["services"]
        for name, spec in words["attributes"]["service"].items()
    ]
    return tuple(people + services)


def held_out(subject: Subject, value: str) -> bool:
    """Whether this triple is kept out of all training (one in five)."""
    key = f"{subject.entity}|{subject.attribute}|{value}"
    return zlib.crc32(key.encode()) % 5 == 0


def sentence(subject: Subject, value: str | None) -> str:
    """The canonical sentence, by which the assistant confirms, answers and declines."""
    said = lexicon()["unknown"] if value is None else value
    return f"{capital(subject.named('your'))} is {said}."


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
