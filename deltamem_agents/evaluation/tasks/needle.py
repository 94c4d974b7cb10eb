"""A needle in generated noise, and variable tracking, in the manner of RULER.

RULER (Hsieh and others 2024): `needle` hides key-value pairs at a depth of a long talk that tells
nothing and asks for one, several or all of them; `variables` hides chains of assignments and asks
which variables hold a value. Noise is generated, so that no text has been in training as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from deltamem_agents.evaluation.frame import Episode, Held, Message, Question, Reply, Scores, Task
from deltamem_agents.evaluation.metrics import says
from deltamem_agents.evaluation.tasks.talk import PlainTalk, Talk, exchange, talk

LENGTHS = (100, 200, 400, 800)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_WORD = 1.3  # tokens a word, about


class Needle(Task):
    """The task; see `frame.Task`. The score is the share of the values asked for that are said.

    Args:
        lengths: tokens of an episode, about (1.3 a word).
        depths: where the asked needle is: 0 at the beginning, 1 at the end.
        needles: how many pairs are hidden; the others are at random places.
        count: episodes of each length and depth.
        style: what it is told in.
        seed: the same seed gives the same episodes.
    """

    name, max_tokens, metrics = "needle", 32, ("right",)

    def __init__(
        self,
        lengths: Sequence[int] = LENGTHS,
        depths: Sequence[float] = DEPTHS,
        *,
        needles: int = 1,
        count: int = 20,
        style: str = "world",
        seed: int = 0,
    ) -> None:
        self.lengths, self.depths, self.needles = tuple(lengths), tuple(depths), needles
        self.count, self.style, self.seed = count, style, seed

    def draw(self) -> list[Episode]:
        """`count` episodes of each length and depth."""
        return [
            self._draw(length, depth, number)
            for length in self.lengths
            for depth in self.depths
            for number in range(self.count)
        ]

    def _draw(self, length: int, depth: float, number: int) -> Episode:
        group = f"{length} tokens, depth {depth:.2f}"
        drawn = talk(self.style, zlib.crc32(f"{self.seed} {group} #{number}".encode()))
        wanted, *others = drawn.pairs(self.needles)
        turns = noise(drawn, length)
        turns.insert(round(depth * len(turns)), wanted.told)
        for place, pair in enumerate(others):
            turns.insert((place * 7919 + number * 104729) % (len(turns) + 1), pair.told)
        told = tuple(message for turn in turns for message in turn)
        row = {"length": length, "depth": depth}
        question = Question(wanted.asked, (wanted.value,), group, {}, row)
        return Episode(f"{group} #{number}", told, (question,), f"{length}")

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """The share of the answers that are said."""
        said = [says(reply.text, answer) for answer in question.answers]
        return {"right": sum(said) / len(said)}

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        return {
            "seed": self.seed, "style": self.style, "lengths": list(self.lengths),
            "depths": list(self.depths), "needles": self.needles, "count": self.count,
        }  # fmt: skip


class Variables(Task):
    """Variable tracking; see `frame.Task`. The score is the share of the variables that are named.

    Args:
        lengths: tokens of an episode, about.
        hops: assignments from variable to variable that follow the first.
        chains: how many chains; one of them is asked.
        count: episodes of each length.
        seed: the same seed gives the same episodes.
    """

    name, max_tokens, metrics = "variables", 48, ("right",)

    def __init__(
        self,
        lengths: Sequence[int] = LENGTHS,
        *,
        hops: int = 2,
        chains: int = 1,
        count: int = 20,
        seed: int = 0,
    ) -> None:
        self.lengths, self.hops, self.chains = tuple(lengths), hops, chains
        self.count, self.seed = count, seed

    def draw(self) -> list[Episode]:
        """`count` episodes of each length."""
        return [
            self._draw(length, number) for length in self.lengths for number in range(self.count)
        ]

    def _draw(self, length: int, number: int) -> Episode:
        name = f"{length} tokens #{number}"
        drawn = PlainTalk(zlib.crc32(f"{self.seed} variables {name}".encode()))
        random, letters = drawn.random, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        names = ["".join(random.choices(letters, k=5)) for _ in range((self.hops + 1) * 50)]
        names = list(dict.fromkeys(names))
        turns = noise(drawn, length)
        asked: tuple[str, tuple[str, ...]] = ("", ())
        for _ in range(self.chains):
            chain, value = [names.pop() for _ in range(self.hops + 1)], drawn.number()[:5]
            says_so = [f"VAR {chain[0]} = {value}"]
            says_so += [f"VAR {new} = VAR {old}" for old, new in pairwise(chain)]
            places = sorted(random.randint(0, len(turns)) for _ in says_so)
            for shift, (place, text) in enumerate(zip(places, says_so, strict=True)):
                turns.insert(place + shift, exchange(f"{text}.", "Noted."))
            asked = asked if asked[0] else (value, tuple(chain))
        question = Question(
            f"Which variables hold the value {asked[0]}? Name all of them.",
            asked[1], f"{length} tokens", {}, {"length": length, "hops": self.hops},
        )  # fmt: skip
        told = tuple(message for turn in turns for message in turn)
        return Episode(name, told, (question,), f"{length}")

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """The share of the variables that are named."""
        said = [says(reply.text, answer) for answer in question.answers]
        return {"right": sum(said) / len(said)}

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        return {
            "seed": self.seed, "lengths": list(self.lengths), "hops": self.hops,
            "chains": self.chains, "count": self.count,
        }  # fmt: skip


def noise(drawn: Talk, length: int) -> list[tuple[Message, ...]]:
    """Turns that tell nothing, of about that many tokens together."""
    turns: list[tuple[Message, ...]] = []
    total = 0.0
    while total < length:
        turns.append(drawn.noise())
        total += sum(_WORD * len(str(m["content"]).split()) + 4 for m in turns[-1])
    return turns
