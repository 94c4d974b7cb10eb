"""What is told of a subject: a word of a list, or something made up on the spot."""

from __future__ import annotations

import random
from typing import Literal

from deltamem_agents.training.subjects import capital, lexicon

Values = Literal["known", "invented", "all"]


class Drawn:
    """Draws values.

    Args:
        chooser: the generator of the conversation's world.
        values: "known" leaves made-up people's names out, "invented" gives no others.
        free: share of the values that have any shape, whatever the subject: what was told is to be
            repeated, likely or not. Nothing is drawn for it at 0.
    """

    def __init__(self, chooser: random.Random, values: Values, free: float = 0.0) -> None:
        self.random, self.values, self.share = chooser, values, free
        self.lengths: tuple[int, ...] = (2, 2, 3)  # syllables of a made-up word
        self.lists: dict[str, list[str]] = lexicon()["values"]

    def value(self, kind: str) -> str:
        """A value of a kind, or one of any shape."""
        if self.share and self.random.random() < self.share:
            return self.free()
        return self.listed(kind)

    def free(self) -> str:
        """One to three parts of letters or digits."""
        choose = self.random.choice
        parts = []
        for _ in range(choose((1, 2, 2, 3))):
            kind = choose(("invented", "invented", "lower", "number", "letters"))
            if kind == "number":
                parts.append(str(self.random.randint(0, 10 ** self.random.randint(1, 6))))
            elif kind == "letters":
                length = self.random.randint(1, 3)
                parts.append("".join(choose(self.lists["letters"]) for _ in range(length)))
            else:
                word = self.listed("invented")
                parts.append(word.lower() if kind == "lower" else word)
        return choose((" ", " ", "-", "")).join(parts)

    def listed(self, kind: str) -> str:
        """A value of a kind."""
        choose, lists = self.random.choice, self.lists
        if kind == "fullname":
            known = self.values == "known" or (self.values == "all" and self.random.random() < 0.6)
            kind = "name" if known else "invented"
        if kind == "digits":
            return str(self.random.randint(1, 10 ** self.random.randint(2, 5)))
        if kind == "code":
            letters = "".join(choose(lists["letters"]) for _ in range(2))
            return f"{letters}-{self.random.randint(10, 9999)}"
        if kind == "version":
            return ".".join(
                str(self.random.randint(0, 40)) for _ in range(self.random.choice((2, 3)))
            )
        if kind == "invented":
            parts = choose(self.lengths)
            return capital("".join(choose(lists["syllables"]) for _ in range(parts)))
        if kind == "phrase":
            return f"{choose(lists['colour'])} {choose(lists['animal'])}"
        return choose(lists[kind])
