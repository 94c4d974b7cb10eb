"""How many pairs a memory holds: MQAR and forgetting-MQAR, asked in words.

Multi-query associative recall (Arora and others 2023, "Zoology"): keys with their values are told
one after the other, then each key is asked. In the forgetting form half of the keys are told
another value after all have been told their first, and the last one counts. Nothing of what was
told is in view when it is asked, unless the engine's window holds all of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_agents.evaluation.frame import Episode, Held, Question, Reply, Scores, Task
from deltamem_agents.evaluation.metrics import says
from deltamem_agents.evaluation.tasks.talk import Pair, talk

SIZES = (1, 2, 4, 8, 16, 32)


class Capacity(Task):
    """The task; see `frame.Task`.

    Args:
        sizes: pairs of an episode; one line of the table each.
        count: episodes of each size.
        forgetting: whether half of the keys get another value.
        style: what it is told in.
        seed: the same seed gives the same episodes.
    """

    max_tokens = 32

    def __init__(
        self,
        sizes: Sequence[int] = SIZES,
        *,
        count: int = 50,
        forgetting: bool = False,
        style: str = "world",
        seed: int = 0,
    ) -> None:
        self.name = "forgetting-mqar" if forgetting else "mqar"
        self.metrics = ("right", "old value") if forgetting else ("right",)
        self.sizes, self.count, self.seed = tuple(sizes), count, seed
        self.forgetting, self.style = forgetting, style

    def draw(self) -> list[Episode]:
        """`count` episodes of each size."""
        return [self._draw(size, number) for size in self.sizes for number in range(self.count)]

    def _draw(self, size: int, number: int) -> Episode:
        name = f"{size} pairs #{number}"
        drawn = talk(self.style, zlib.crc32(f"{self.seed} {self.name} {name}".encode()))
        first = drawn.pairs(size)
        told = [message for pair in first for message in pair.told]
        questions = []
        for place, pair in enumerate(first):
            last = pair
            if self.forgetting and place % 2 == 0:
                last = drawn.revised(pair)
                told += last.told
            questions.append(self._question(pair, last, size))
        return Episode(name, tuple(told), tuple(questions), f"{size} pairs")

    def _question(self, first: Pair, last: Pair, size: int) -> Question:
        what = "" if not self.forgetting else ", kept" if last is first else ", told again"
        row = {"pairs": size, "told again": last is not first}
        return Question(last.asked, (last.value,), f"{size} pairs{what}", {"old": first.value}, row)

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Right: the value is said; for keys told again also whether the old value is."""
        scores = {"right": float(says(reply.text, question.answers[0]))}
        old = question.detail["old"]
        if old != question.answers[0]:
            scores["old value"] = float(says(reply.text, old))
        return scores

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        sizes = {"sizes": list(self.sizes), "count": self.count}
        return {"seed": self.seed, "style": self.style, **sizes}
