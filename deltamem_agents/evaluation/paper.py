"""The published table, row by row, from weights and data that the user has.

The paper keeps the history in the prompt and starts every item from an empty state, so its rows are
measured with a window that holds all the positions. Its baselines are beside it; the controls that
it leaves out are too. Published figures stand in the last column for comparison, in per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from deltamem_agents.errors import ModelNotFoundError
from deltamem_agents.evaluation.cast import Cast
from deltamem_agents.evaluation.frame import Task
from deltamem_agents.evaluation.report import Result
from deltamem_agents.evaluation.runner import run, write_json
from deltamem_agents.evaluation.tasks.agentbench import AgentBench
from deltamem_agents.evaluation.tasks.gpqa import GPQA
from deltamem_agents.evaluation.tasks.hotpot import HotpotQA
from deltamem_agents.evaluation.tasks.ifeval import IFEval
from deltamem_agents.evaluation.tasks.locomo import LoCoMo

SUBJECTS = (
    "full", "memory", "reset", "shuffled", "swapped", "off", "bm25", "compressed", "memorybank",
    "context2lora", "mlp",
)  # fmt: skip
_TOLD_NOTHING = ("ifeval", "gpqa")
_WITHOUT_HISTORY = ("full", "memory")
#: arXiv 2605.12357, Qwen3-4B-Instruct-2507: IFEval, HotpotQA EM, F1, GPQA-D, MemoryAgentBench, its
#: TTL split, LoCoMo. The memory's row is its TSW variant.
PUBLISHED: Mapping[str, tuple[float | None, ...]] = {
    "full": (81.89, 42.35, 56.00, 39.39, 29.54, 26.14, 40.79),
    "memory": (82.99, 49.41, 63.66, 40.40, 36.48, 40.64, 46.53),
    "bm25": (None, 40.35, 52.83, None, 24.49, 9.74, 36.68),
    "compressed": (None, 36.93, 50.03, None, 15.63, 1.43, 40.98),
    "memorybank": (None, None, None, None, 17.65, 7.67, 38.14),
    "context2lora": (76.71, 37.85, 50.88, 29.29, 32.53, 29.86, 48.11),
    "mlp": (24.95, 10.94, 25.83, 22.73, 28.80, 26.00, 26.85),
}
COLUMNS = (
    ("ifeval", "prompt strict", "IFEval"), ("hotpotqa", "exact match", "Hotpot EM"),
    ("hotpotqa", "f1", "Hotpot F1"), ("gpqa", "right", "GPQA-D"),
    ("memoryagentbench", "score", "MAB"), ("ttl", "score", "TTL"), ("locomo", "f1", "LoCoMo"),
)  # fmt: skip
#: task: (patterns of its files, first that fits; how it is made)
_Make = Callable[[list[Path], "int | None"], Task]
_FILES: Mapping[str, tuple[tuple[str, ...], _Make]] = {
    "ifeval": (
        ("ifeval*", "input_data.jsonl"), lambda paths, limit: IFEval(paths[0], limit=limit)
    ),
    "hotpotqa": (("hotpot*",), lambda paths, limit: HotpotQA(paths[0], limit=limit)),
    "gpqa": (("gpqa_diamond*",), lambda paths, limit: GPQA(paths[0], limit=limit)),
    "memoryagentbench": (
        ("Accurate_Retrieval*", "Test_Time_Learning*", "Long_Range_Understanding*",
         "Conflict_Resolution*", "memoryagentbench*"),
        lambda paths, limit: AgentBench(paths, limit=limit),
    ),
    "locomo": (("locomo*.json",), lambda paths, limit: LoCoMo(paths[0], limit=limit)),
}  # fmt: skip


@dataclass(frozen=True)
class PaperTable:
    """What was measured, beside what was published.

    Attributes:
        results: by task.
        titles: of the subjects.
    """

    results: Mapping[str, Result]
    titles: Mapping[str, str]

    def figure(self, subject: str, task: str, metric: str) -> float | None:
        """One cell: the mean over all questions, in per cent; None where it was not measured."""
        split = "TTL" if task == "ttl" else None
        result = self.results.get("memoryagentbench" if split else task)
        if result is None:
            return None
        groups = [
            (row.figures[metric].value, row.answers)
            for row in result.rows
            if row.subject == subject and split in (None, row.detail.get("split"))
        ]
        total = sum(answers for _, answers in groups)
        return 100 * sum(value * answers for value, answers in groups) / total if total else None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "task": "paper",
            "rows": [
                {
                    "subject": subject,
                    **{head: self.figure(subject, task, metric) for task, metric, head in COLUMNS},
                    "published": list(PUBLISHED.get(subject, ())),
                }
                for subject in self.titles
            ],
            "tasks": {name: result.as_dict() for name, result in self.results.items()},
        }

    def table(self) -> Table:
        """For a terminal; published figures in brackets."""
        table = Table(title="the published table, in per cent (published)", box=box.SIMPLE_HEAD)
        for name in ("", *(head for _, _, head in COLUMNS)):
            table.add_column(name, justify="right" if name else "left")
        for subject, title in self.titles.items():
            published = PUBLISHED.get(subject, (None,) * len(COLUMNS))
            cells = [
                _cell(self.figure(subject, task, metric), known)
                for (task, metric, _), known in zip(COLUMNS, published, strict=True)
            ]
            table.add_row(title, *cells)
        return table


def _cell(figure: float | None, published: float | None) -> str:
    known = "" if published is None else f" ({published:.2f})"
    return ("-" if figure is None else f"{figure:.2f}") + known


def find_tasks(data: Path, limit: int | None) -> dict[str, Task]:
    """The table's tasks whose files are in a folder.

    Raises:
        ModelNotFoundError: there is no file of any of them.
    """
    found = {}
    for name, (patterns, make) in _FILES.items():
        paths = list(dict.fromkeys(_matching(data, patterns)))
        if paths:
            found[name] = make(paths, limit)
    if not found:
        raise ModelNotFoundError(
            "a folder of data holds one of the table's data sets",
            got=str(data),
            remedy="Put one there under its published name: "
            + ", ".join(p for patterns, _ in _FILES.values() for p in patterns),
        )
    return found


def _matching(data: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in sorted(data.rglob(pattern)) if path.is_file())


def evaluate_paper(
    cast: Cast,
    data: Path,
    output: Path,
    *,
    subjects: Sequence[str] = SUBJECTS,
    limit: int | None = None,
    about: Mapping[str, Any] | None = None,
    workers: int = 8,
    tick: Callable[[str], None] = lambda task: None,
) -> PaperTable:
    """Measure every data set that is there with every row of the table.

    Args:
        cast: makes the subjects; its window should hold the history, as the paper's does.
        data: the folder with the data sets as published.
        output: the result; each task's own, and its journal, stand beside it.
        subjects: rows; those that only differ in the history are left out where nothing is told.
        limit: most questions of a file, or of one conversation of it.
        about: see `runner.run`.
        workers: see `runner.run`.
        tick: called with the task's name as each is finished.
    """
    made = {name: cast.subject(name) for name in subjects}
    results = {}
    for name, task in find_tasks(data, limit).items():
        rows = [
            made[one] for one in subjects if name not in _TOLD_NOTHING or one in _WITHOUT_HISTORY
        ]
        path = output.with_name(f"{output.stem}-{name}.json")
        results[name] = run(task, rows, path=path, about=about, workers=workers, keep=True)
        tick(name)
    table = PaperTable(results, {name: subject.title for name, subject in made.items()})
    write_json(output, table.as_dict())
    return table
