"""What generated tasks are told in: the built-in model's world, or sentences for any model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.frame import Message
from deltamem_agents.training.subjects import Subject
from deltamem_agents.training.world import World

STYLES = ("world", "plain")


@dataclass(frozen=True)
class Pair:
    """A key with its value, as it is told and asked.

    Attributes:
        told: a user turn and its reply that tell the value.
        asked: the question.
        value: what the answer must hold.
        key: what tells pairs apart.
    """

    told: tuple[Message, ...]
    asked: str
    value: str
    key: object


class Talk(Protocol):
    """Draws from one seed: pairs, other values for them, and talk that tells nothing."""

    def pairs(self, count: int) -> list[Pair]:
        """Pairs with different keys; as many as there are keys, at most `count`."""

    def revised(self, pair: Pair) -> Pair:
        """The same key with another value, told as a change."""

    def noise(self) -> tuple[Message, ...]:
        """A turn without anything that is asked."""


def talk(style: str, seed: int) -> Talk:
    """Begin a talk.

    Raises:
        ConfigError: there is no such style.
    """
    if style == "world":
        return WorldTalk(seed)
    if style == "plain":
        return PlainTalk(seed)
    raise ConfigError(
        f"a style is one of {', '.join(STYLES)}", got=style, remedy="Choose one of these."
    )


def exchange(said: str, reply: str) -> tuple[Message, ...]:
    """A user message and a reply."""
    return {"role": "user", "content": said}, {"role": "assistant", "content": reply}


class WorldTalk:
    """Held-out sentences of the world that the built-in model was made in.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int) -> None:
        self.world = World(seed, split="test", values="known")

    def pairs(self, count: int) -> list[Pair]:
        """Subjects of the world, any two of them different; see `Talk`."""
        count = min(count, len(self.world.pool))
        chosen = self.world.draw_subjects(count, alike=0.0)
        return [self._pair(subject, None) for subject in chosen]

    def revised(self, pair: Pair) -> Pair:
        """See `Talk`."""
        assert isinstance(pair.key, Subject)
        return self._pair(pair.key, pair.value)

    def noise(self) -> tuple[Message, ...]:
        """See `Talk`."""
        return tuple(self.world.chat().messages())

    def _pair(self, subject: Subject, old: str | None) -> Pair:
        value = self.world.value(subject, other_than=old)
        told = self.world.fact(subject, value, update=old is not None)
        asked = self.world.question(subject, value)
        return Pair(tuple(told.messages()), asked.user, value, subject)


_ADJECTIVES = ("amber", "brisk", "calm", "dusty", "eager", "faint", "grand", "hollow", "icy",
               "jolly", "keen", "lunar", "mellow", "noble", "odd", "plain", "quiet", "rusty",
               "solid", "tidy", "urban", "vivid", "windy", "young", "zesty")  # fmt: skip
_NOUNS = ("anchor", "basket", "candle", "drawer", "engine", "feather", "garden", "hammer",
          "island", "jacket", "kettle", "ladder", "mirror", "needle", "orchard", "pillow",
          "quarry", "ribbon", "saddle", "tunnel", "umbrella", "violin", "window", "yard",
          "zipper")  # fmt: skip
_THINGS = ("grass", "sky", "river", "road", "market", "harbour", "bakery", "library", "station",
           "bridge", "valley", "square")  # fmt: skip
_STATES = ("green", "wide", "slow", "quiet", "crowded", "new", "old", "empty", "bright", "cold",
           "far away", "close by")  # fmt: skip
_TIMES = ("in the morning", "after lunch", "at night", "in spring", "on Mondays", "all year",
          "before it rains", "when it is warm")  # fmt: skip


class PlainTalk:
    """Magic numbers in noise, in the manner of RULER (Hsieh and others 2024), as turns of a chat.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pairs(self, count: int) -> list[Pair]:
        """Keys of two words with numbers of seven digits; see `Talk`."""
        every = [f"{adjective}-{noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
        return [self._pair(key, "") for key in self.random.sample(every, min(count, len(every)))]

    def revised(self, pair: Pair) -> Pair:
        """See `Talk`."""
        return self._pair(str(pair.key), pair.value)

    def noise(self) -> tuple[Message, ...]:
        """See `Talk`."""
        said = " ".join(
            f"The {self._of(_THINGS)} is {self._of(_STATES)} {self._of(_TIMES)}." for _ in range(2)
        )
        return exchange(said, "I see.")

    def number(self) -> str:
        """Seven digits."""
        return str(self.random.randint(1_000_000, 9_999_999))

    def _of(self, words: Sequence[str]) -> str:
        return self.random.choice(words)

    def _pair(self, key: str, old: str) -> Pair:
        value = self.number()
        said = f"The special magic number for {key} is {value}."
        if old:
            said = f"The special magic number for {key} has changed: it is {value} now."
        asked = f"What is the special magic number for {key}?"
        return Pair(exchange(said, "Noted."), asked, value, key)
