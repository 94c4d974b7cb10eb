"""HotpotQA (Yang and others 2018): questions over several paragraphs, distractors among them.

From `hotpot_dev_distractor_v1.json` as published, or the hub's rows of it (JSON, JSONL, parquet).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltamem_agents.evaluation.frame import Episode, Held, Question, Reply, Scores, Task
from deltamem_agents.evaluation.tasks.files import read_records, told_in_parts, wanted
from deltamem_agents.evaluation.text_scores import exact_match, f1

_ASK = (
    "Answer the question from the passages that you were given. Give the answer only, without "
    "any other words. Question: {question} Answer:"
)


class HotpotQA(Task):
    """The task; see `frame.Task`.

    Args:
        path: of the data.
        limit: most questions; None for all.
    """

    name, max_tokens, metrics = "hotpotqa", 32, ("exact match", "f1")

    def __init__(self, path: Path, *, limit: int | None = None) -> None:
        self.path, self.limit = path, limit

    def draw(self) -> Iterable[Episode]:
        """One episode a question: its paragraphs are told."""
        for record in read_records(self.path)[: self.limit]:
            wanted(record, self.path, ("question", "answer", "context"))
            told = told_in_parts(_paragraphs(record["context"]))
            text = _ASK.format(question=record["question"])
            detail = {"level": record.get("level")}
            question = Question(text, (str(record["answer"]),), record.get("type") or "", detail)
            yield Episode(str(record.get("_id", record.get("id"))), told, (question,))

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Exact match and F1, as in the official evaluation."""
        return {
            "exact match": exact_match(reply.text, question.answers),
            "f1": f1(reply.text, question.answers),
        }

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        return {"data": self.path.name, "limit": self.limit}


def _paragraphs(context: Any) -> list[str]:
    if isinstance(context, Mapping):  # as the hub has it
        pairs = zip(context["title"], context["sentences"], strict=True)
    else:
        pairs = ((title, sentences) for title, sentences in context)  # type: ignore[assignment]
    return [f"{title}: {''.join(sentences).strip()}" for title, sentences in pairs]
