"""MemoryAgentBench (Hu and others 2025): a long context told in parts, many questions about it.

From the published rows (`context`, `questions`, `answers`, `metadata.source`) as parquet, JSON or
JSONL. The split is told from the source, so that one file may hold several. Scores that need a
judge by a large model (LongMemEval, summaries) or an entity table (recommendation) are replaced by
the ones named below, and rows of such sources carry "proxy" in the result's file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltamem_agents.evaluation.frame import Episode, Held, Question, Reply, Scores, Task
from deltamem_agents.evaluation.tasks.files import read_records, told_in_parts, wanted
from deltamem_agents.evaluation.text_scores import exact_match, f1, substring_match

SPLITS = {
    "ruler": "AR", "eventqa": "AR", "longmemeval": "AR", "icl": "TTL", "recsys": "TTL",
    "infbench": "LRU", "detective": "LRU", "factconsolidation": "CR",
}  # fmt: skip
_PROXY = ("longmemeval", "infbench", "recsys")
_ASK = {
    "icl": 'Use the examples that you were given to label this one. Answer with "label: " and the '
    "label only.\n\n{question}",
    "factconsolidation": "Answer from the numbered facts that you were given; where two disagree, "
    "the one with the larger number holds. Give the answer only.\n\n{question}",
    "": "Answer from what you were given. Give the answer only.\n\n{question}",
}


class AgentBench(Task):
    """The task; see `frame.Task`.

    Args:
        paths: of the data.
        splits: of "AR", "TTL", "LRU", "CR"; which rows are asked.
        limit: most questions of a row; None for all.
    """

    max_tokens, metrics = 50, ("score", "f1")

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        splits: Iterable[str] = ("AR", "TTL", "LRU", "CR"),
        limit: int | None = None,
    ) -> None:
        self.paths, self.splits, self.limit = tuple(paths), tuple(splits), limit
        self.name = "ttl" if self.splits == ("TTL",) else "memoryagentbench"

    def draw(self) -> Iterable[Episode]:
        """One episode a row."""
        for path in self.paths:
            for number, record in enumerate(read_records(path)):
                wanted(record, path, ("context", "questions", "answers"))
                source = str((record.get("metadata") or {}).get("source") or record.get("source"))
                kind = next((kind for kind in SPLITS if source.startswith(kind)), "")
                if SPLITS.get(kind, "AR") in self.splits:
                    yield self._episode(f"{path.name} {number} {source}", record, source, kind)

    def _episode(self, name: str, record: Mapping[str, Any], source: str, kind: str) -> Episode:
        split = SPLITS.get(kind, "AR")
        row = {"split": split, "source": source, "proxy": kind in _PROXY}
        ask = _ASK.get(kind, _ASK[""])
        asked = zip(record["questions"], record["answers"], strict=True)
        questions = tuple(
            Question(
                ask.format(question=text), tuple(map(str, gold)), f"{split}: {source}",
                {"kind": kind}, row,
            )
            for text, gold in asked
        )  # fmt: skip
        told = told_in_parts([record["context"]], "I will keep that in mind.")
        return Episode(name, told, questions[: self.limit], source)

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """The source's own score, and F1.

        Labels: exact, after "label:" is taken off. Summaries: F1. Everything else: whether a gold
        answer stands in the answer.
        """
        kind, text = question.detail["kind"], reply.text
        if kind == "icl":
            given = re.sub(r"^\s*label\s*:", "", text.splitlines()[0] if text else "", flags=re.I)
            score = exact_match(given, question.answers)
        elif kind == "infbench":
            score = f1(text, question.answers)
        else:
            score = substring_match(text, question.answers)
        return {"score": score, "f1": f1(text, question.answers)}

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        data = [path.name for path in self.paths]
        return {"data": data, "splits": list(self.splits), "limit": self.limit}
