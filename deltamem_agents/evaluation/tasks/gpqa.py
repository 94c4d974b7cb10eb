"""GPQA-Diamond (Rein and others 2023): multiple choice, nothing told beforehand.

From `gpqa_diamond.csv` as published. The order of the choices is drawn from the question's place.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltamem_agents.evaluation.frame import Episode, Held, Question, Reply, Scores, Task
from deltamem_agents.evaluation.tasks.files import read_records, wanted

_WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))
_CHOICE = re.compile(r"answer\s*(?:is|:)?\s*\(?([A-D])\b", re.IGNORECASE)
_LETTER = re.compile(r"(?<![A-Za-z])\(?([A-D])\)?(?![A-Za-z])")


class GPQA(Task):
    """The task; see `frame.Task`.

    Args:
        path: of the data.
        limit: most questions; None for all.
        max_tokens: of an answer, reasoning included.
    """

    name, metrics = "gpqa", ("right",)

    def __init__(self, path: Path, *, limit: int | None = None, max_tokens: int = 1024) -> None:
        self.path, self.limit, self.max_tokens = path, limit, max_tokens

    def draw(self) -> Iterable[Episode]:
        """One episode a question, with nothing told."""
        for number, record in enumerate(read_records(self.path)[: self.limit]):
            wanted(record, self.path, ("Question", "Correct Answer", *_WRONG))
            choices = [record["Correct Answer"], *(record[name] for name in _WRONG)]
            order = random.Random(number).sample(range(4), 4)
            lines = [f"({'ABCD'[place]}) {choices[old].strip()}" for place, old in enumerate(order)]
            text = (
                f"{record['Question'].strip()}\n\n" + "\n".join(lines)
                + '\n\nThink it over, then end with "The answer is (X)", X being A, B, C or D.'
            )  # fmt: skip
            question = Question(text, ("ABCD"[order.index(0)],), "diamond")
            yield Episode(f"{number}", (), (question,))

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Whether the last choice that is named is the right one."""
        named = _CHOICE.findall(reply.text) or _LETTER.findall(reply.text)
        return {"right": float(bool(named) and named[-1].upper() == question.answers[0])}

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        return {"data": self.path.name, "limit": self.limit, "max_tokens": self.max_tokens}
