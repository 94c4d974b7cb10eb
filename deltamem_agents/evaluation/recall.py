"""Conversation recall of an engine, with its controls: what the model card reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deltamem_agents.evaluation.cast import Cast
from deltamem_agents.evaluation.report import Result
from deltamem_agents.evaluation.runner import run
from deltamem_agents.evaluation.subjects import STANDARD
from deltamem_agents.evaluation.tasks.recall import SETTINGS, Recall, Setting
from deltamem_agents.runtime.engine import Engine


def evaluate(
    engine: Engine,
    *,
    count: int = 200,
    seed: int = 0,
    settings: Sequence[Setting] = SETTINGS,
    subjects: Sequence[str] = STANDARD,
    path: Path | None = None,
) -> Result:
    """Measure recall.

    Args:
        engine: with the window that facts leave.
        count: conversations of each setting.
        seed: the same seed gives the same conversations.
        settings: what is told.
        subjects: names; see `subjects.NAMES`.
        path: see `runner.run`.
    """
    cast = Cast(engine)
    task = Recall(cast.reader, settings, count=count, seed=seed)
    return run(task, [cast.subject(name) for name in subjects], path=path)
