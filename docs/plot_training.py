"""Draws the course of a training from its logs.

    python docs/plot_training.py LOG.jsonl [LOG.jsonl ...] --output PICTURE.png

A log holds one JSON object a line with "step" and figures: that of a stage of the built-in recipe,
or the `log.jsonl` of `deltamem train`. Several logs are drawn one after the other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from deltamem_agents.inspect.figures import GREY, Picture

LOSSES = {"memory loss": "with memory", "plain loss": "all in view", "loss": "training",
          "eval_loss": "held out"}  # fmt: skip
SHARES = {"memory answer": "answers from memory", "plain answer": "answers, all in view",
          "memory decline": "declined from memory", "exact": "exact answers",
          "eval_exact": "exact, held out", "eval_exact_reset": "without the memory"}  # fmt: skip

Line = dict[str, float]


def read(paths: Sequence[Path]) -> tuple[list[Line], list[tuple[str, float]]]:
    """The lines of all logs with steps counted through, and where each log begins."""
    lines: list[Line] = []
    begins: list[tuple[str, float]] = []
    start = 0.0
    for path in paths:
        begins.append((path.stem, start))
        for text in path.read_text("utf-8").splitlines():
            line = json.loads(text)
            lines.append({**line, "step": line["step"] + start})
        start = max(line["step"] for line in lines)
    return lines, begins


def draw(paths: Sequence[Path]) -> Picture:
    """Losses above, shares of right answers below."""
    lines, begins = read(paths)
    figure = Picture(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, names in ((above, LOSSES), (below, SHARES)):
        for name, label in names.items():
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, linewidth=1.4)
        for stage, start in begins if len(begins) > 1 else ():
            axes.axvline(start, color=GREY, linewidth=0.6)
            if axes is above:
                axes.annotate(stage, (start, 1), xycoords=("data", "axes fraction"),
                              xytext=(3, -10), textcoords="offset points", fontsize=8)  # fmt: skip
        axes.legend(fontsize=8, frameon=False)
    above.set(ylabel="loss", yscale="log")
    below.set(ylabel="share right", xlabel="step", ylim=(0, 1))
    return figure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    draw(arguments.logs).save(arguments.output)


if __name__ == "__main__":
    main()
