"""The script that draws a training reads both kinds of logs and draws what they say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "docs" / "plot_training.py"


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def drawn(axes: Any) -> dict[str, list[list[float]]]:
    return {
        line.get_label(): line.get_xydata().tolist()
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_stages_are_drawn_one_after_the_other(tmp_path: Path) -> None:
    first = written(
        tmp_path / "copying.jsonl",
        {"step": 25, "memory loss": 8.0, "memory answer": 0.1, "level": 0},
        {"step": 50, "memory loss": 4.0, "memory answer": 0.3, "level": 1},
    )
    second = written(tmp_path / "binding.jsonl", {"step": 25, "memory loss": 2.0})
    script = runpy.run_path(str(SCRIPT))
    figure = script["draw"]([first, second])
    above, below = figure.axes
    assert drawn(above) == {"with memory": [[25, 8], [50, 4], [75, 2]]}
    assert drawn(below) == {"answers from memory": [[25, 0.1], [50, 0.3]]}
    assert [text.get_text() for text in above.texts] == ["copying", "binding"]


def test_a_log_of_the_trainer_becomes_a_picture(tmp_path: Path) -> None:
    log = written(
        tmp_path / "log.jsonl",
        {"step": 10, "loss": 3.0, "exact": 0.2},
        {"step": 10, "eval_loss": 3.5, "eval_exact": 0.1, "eval_exact_reset": 0.0},
        {"step": 20, "train_runtime": 9.0},
    )
    script = runpy.run_path(str(SCRIPT))
    above, below = script["draw"]([log]).axes
    assert drawn(above) == {"training": [[10, 3]], "held out": [[10, 3.5]]}
    assert set(drawn(below)) == {"exact answers", "exact, held out", "without the memory"}
    path = tmp_path / "curve.png"
    script["draw"]([log]).save(path)
    assert path.read_bytes().startswith(b"\x89PNG")
