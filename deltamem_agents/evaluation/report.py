"""What a run found: lines of a table, the same as JSON, and what each subject costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich import box
from rich.table import Table

from deltamem_agents.evaluation.frame import Episode, Question, Task
from deltamem_agents.evaluation.metrics import Mean, Share, summarise

SHOWN_MISSES = 10
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One line: a group of questions put to one subject.

    Attributes:
        group: see `frame.Question`.
        subject: who was asked.
        figures: each metric that applies, with its interval.
        answers: how many.
        episodes: of how many episodes.
        misses: some of the answers that scored worst: question, truth, answer.
        detail: see `frame.Question.row`.
    """

    group: str
    subject: str
    figures: Mapping[str, Share | Mean]
    answers: int
    episodes: int
    misses: tuple[Mapping[str, Any], ...]
    detail: Mapping[str, Any]

    @property
    def value(self) -> float:
        """The first metric's figure."""
        return next(iter(self.figures.values())).value

    def as_dict(self) -> dict[str, Any]:
        """The line, ready for JSON."""
        return {
            "group": self.group,
            "subject": self.subject,
            "measured": self.subject,
            **self.detail,
            **{name: _number(figure.value) for name, figure in self.figures.items()},
            "interval": _interval(next(iter(self.figures.values()))),
            "intervals": {name: _interval(figure) for name, figure in self.figures.items()},
            "answers": self.answers,
            "conversations": self.episodes,
            "misses": list(self.misses),
        }


@dataclass(frozen=True)
class Result:
    """A run's outcome.

    Attributes:
        task: what was asked.
        about: model, window, seed, ...
        episodes: all of them.
        records: of each subject and episode, the answers and the cost.
        titles: what the table calls each subject.
        seconds: of this process.
    """

    task: Task
    about: Mapping[str, Any]
    episodes: tuple[Episode, ...]
    records: tuple[Record, ...]
    titles: Mapping[str, str]
    seconds: float

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All lines: groups in the order of the task, subjects in the order of the run."""
        found: dict[tuple[str, str], list[tuple[Episode, Record]]] = {}
        by_name = {episode.name: episode for episode in self.episodes}
        for record in self.records:
            episode = by_name[record["episode"]]
            for answer in record["answers"]:
                found.setdefault((answer["group"], record["subject"]), []).append((episode, answer))
        groups = list(dict.fromkeys(q.group for e in self.episodes for q in e.questions))
        lines = (
            self._row(group, subject, found[group, subject])
            for group in groups
            for subject in self.titles
            if (group, subject) in found
        )
        return tuple(row for row in lines if row.figures)

    def _row(self, group: str, subject: str, answers: list[tuple[Episode, Record]]) -> Row:
        figures = {}
        for metric in self.task.metrics:
            values: dict[str, list[float]] = {}
            for episode, answer in answers:
                if metric in answer["scores"]:
                    values.setdefault(episode.name, []).append(float(answer["scores"][metric]))
            if values:
                figures[metric] = summarise(list(values.values()))
        first = self.task.metrics[0]
        missed = [(e, a) for e, a in answers if a["scores"].get(first, 1.0) < 0.5]
        question = answers[0][0].questions[answers[0][1]["question"]]
        return Row(
            group, subject, figures, len(answers), len({e.name for e, _ in answers}),
            tuple(_miss(e.questions[a["question"]], a) for e, a in missed[:SHOWN_MISSES]),
            question.row,
        )  # fmt: skip

    def row(self, group: str, subject: str = "memory") -> Row:
        """One line."""
        return next(row for row in self.rows if (row.group, row.subject) == (group, subject))

    @cached_property
    def differences(self) -> list[dict[str, Any]]:
        """Differences of subjects, question by question, as the task wants them."""
        found = []
        for left, right, metric in self.task.pairs:
            mine, other = self._scores(left, metric), self._scores(right, metric)
            for group in dict.fromkeys(group for group, _, _ in mine):
                values: dict[str, list[float]] = {}
                for key, value in mine.items():
                    if key[0] == group and key in other:
                        values.setdefault(key[1], []).append(value - other[key])
                if values:
                    mean = Mean(tuple(map(tuple, values.values())))
                    found.append(
                        {"group": group, "metric": metric, "of": left, "minus": right,
                         "mean": mean.value, "interval": _interval(mean), "answers": mean.total}
                    )  # fmt: skip
        return found

    def _scores(self, subject: str, metric: str) -> dict[tuple[str, str, int], float]:
        return {
            (answer["group"], record["episode"], answer["question"]): answer["scores"][metric]
            for record in self.records
            if record["subject"] == subject
            for answer in record["answers"]
            if metric in answer["scores"]
        }

    @cached_property
    def costs(self) -> dict[str, dict[str, float]]:
        """What each subject takes: the mean of an episode, and of an answer."""
        return {
            subject: _cost([r for r in self.records if r["subject"] == subject and r["cost"]])
            for subject in self.titles
            if any(r["cost"] for r in self.records if r["subject"] == subject)
        }

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON. `costs` and `seconds` hold times, the rest repeats exactly."""
        return {
            **self.about,
            "rows": [row.as_dict() for row in self.rows],
            "differences": self.differences,
            "costs": self.costs,
            "seconds": self.seconds,
        }

    def table(self, title: str = "") -> Table:
        """All lines, for a terminal."""
        table = Table(title=title or str(self.about["task"]), box=box.SIMPLE_HEAD)
        metrics = [m for m in self.task.metrics if any(m in row.figures for row in self.rows)]
        heads = [f"{metric} [95 % interval]" for metric in metrics]
        for name in ("told", "asked", *heads, "answers", "episodes"):
            table.add_column(name)
        for row in self.rows:
            shown = [str(row.figures[m]) if m in row.figures else "" for m in metrics]
            counts = (str(row.answers), str(row.episodes))
            table.add_row(row.group, self.titles[row.subject], *shown, *counts)
        for line in self.differences:
            shown = [""] * len(metrics)
            shown[metrics.index(line["metric"])] = _difference(line)
            name = f"{line['of']} minus {line['minus']}"
            table.add_row(line["group"], name, *shown, str(line["answers"]), "")
        return table

    def cost_table(self) -> Table:
        """What each subject takes, for a terminal."""
        table = Table(title="what it takes", box=box.SIMPLE_HEAD)
        heads = ("subject", "parameters", "bytes kept", "tokens in view", "tokens read before",
                 "s to be told", "s an answer")  # fmt: skip
        for name in heads:
            table.add_column(name, justify="left" if name == "subject" else "right")
        for subject, cost in self.costs.items():
            table.add_row(
                self.titles[subject], f"{cost['parameters']:,.0f}", f"{cost['bytes']:,.0f}",
                f"{cost['prompt_tokens']:.0f}", f"{cost['read_tokens']:.0f}",
                f"{cost['told_seconds']:.2f}", f"{cost['answer_seconds']:.3f}",
            )  # fmt: skip
        return table


def _cost(records: list[Record]) -> dict[str, float]:
    answers = [answer for record in records for answer in record["answers"]]
    return {
        "parameters": _mean(r["cost"]["parameters"] for r in records),
        "bytes": _mean(r["cost"]["bytes"] for r in records),
        "read_tokens": _mean(r["cost"]["read_tokens"] for r in records),
        "prompt_tokens": _mean(answer["prompt_tokens"] for answer in answers),
        "told_seconds": _mean(r["cost"]["seconds"] for r in records),
        "answer_seconds": _mean(answer["seconds"] for answer in answers),
    }


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4) if listed else 0.0


def _miss(question: Question, answer: Record) -> dict[str, Any]:
    truth = question.answers[0] if len(question.answers) == 1 else list(question.answers)
    return {"question": question.text[:400], "truth": truth, "answer": answer["answer"][:400]}


def _difference(line: Record) -> str:
    if line["interval"] is None:
        return f"{line['mean']:+.3f}"
    low, high = line["interval"]
    return f"{line['mean']:+.3f} [{low:+.2f}, {high:+.2f}]"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _interval(figure: Share | Mean) -> list[float] | None:
    low, high = figure.interval
    return None if math.isnan(low) else [low, high]
