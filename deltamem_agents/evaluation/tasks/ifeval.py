"""IFEval (Zhou and others 2023): prompts whose instructions a program can check.

From `input_data.jsonl` as published, or the hub's rows of it. Nothing is told beforehand: what is
measured is that a memory does not cost obedience.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deltamem_agents.errors import ConfigError, FileFormatError
from deltamem_agents.evaluation.frame import Episode, Held, Question, Reply, Scores, Task
from deltamem_agents.evaluation.tasks.files import read_records, wanted
from deltamem_agents.evaluation.tasks.ifeval_checks import CHECKS, followed, followed_loosely


class IFEval(Task):
    """The task; see `frame.Task`.

    Args:
        path: of the data.
        limit: most prompts; None for all.
        max_tokens: of a response.

    Raises:
        ConfigError: an instruction is about a language, and langdetect is not installed.
    """

    name = "ifeval"
    metrics = ("prompt strict", "instruction strict", "prompt loose", "instruction loose")

    def __init__(self, path: Path, *, limit: int | None = None, max_tokens: int = 1280) -> None:
        self.path, self.limit, self.max_tokens = path, limit, max_tokens

    def draw(self) -> Iterable[Episode]:
        """One episode a prompt, with nothing told."""
        for number, record in enumerate(read_records(self.path)[: self.limit]):
            wanted(record, self.path, ("prompt", "instruction_id_list", "kwargs"))
            names = list(record["instruction_id_list"])
            self._check(names)
            given = [{k: v for k, v in one.items() if v is not None} for one in record["kwargs"]]
            detail = {"checks": list(zip(names, given, strict=True))}
            yield Episode(f"{number}", (), (Question(record["prompt"], (), "all", detail),))

    def _check(self, names: list[str]) -> None:
        if unknown := sorted(set(names) - set(CHECKS)):
            raise FileFormatError(
                "instructions are those of IFEval",
                got=unknown,
                remedy="Give the file input_data.jsonl as IFEval released it.",
            )
        if "language:response_language" in names and find_spec("langdetect") is None:
            raise ConfigError(
                "a response's language is told by langdetect",
                got="no package langdetect",
                remedy="pip install langdetect, or leave these prompts out of the file.",
            )

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """The four figures of the paper; for instructions, the share of this prompt's."""
        scores = {}
        for kind, check in (("strict", followed), ("loose", followed_loosely)):
            outcomes = [check(name, reply.text, given) for name, given in question.detail["checks"]]
            scores[f"prompt {kind}"] = float(all(outcomes))
            scores[f"instruction {kind}"] = sum(outcomes) / len(outcomes)
        return scores

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        return {"data": self.path.name, "limit": self.limit, "max_tokens": self.max_tokens}
