"""The ablation's table and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from rich import box
from rich.table import Table

from deltamem_agents.inspect.figures import GREY, INK, Picture

_COLOURS = ("#92c5de", "#2166ac", "#053061")
Found = Sequence[Mapping[str, Any]]


def recall_of(cell: Mapping[str, Any], facts: int, subject: str = "memory") -> Mapping[str, Any]:
    """One line of a cell's recall."""
    return next(
        line for line in cell["recall"] if (line["facts"], line["subject"]) == (facts, subject)
    )


def facts_of(found: Found) -> list[int]:
    """The numbers of facts that were measured."""
    return sorted({line["facts"] for cell in found for line in cell["recall"]})


def table(found: Found) -> Table:
    """All cells, for a terminal."""
    made = Table(title="ablation: exact answers from memory (memory reset)", box=box.SIMPLE_HEAD)
    facts = facts_of(found)
    heads = [f"{count} fact{'s' if count > 1 else ''} [95 % interval]" for count in facts]
    for name in ("choice", "value", "parameters", "level", *heads):
        made.add_column(name)
    for cell in found:
        shown = []
        for count in facts:
            line, control = recall_of(cell, count), recall_of(cell, count, "reset")
            low, high = line["interval"]
            shown.append(f"{line['exact']:.3f} [{low:.2f}, {high:.2f}] ({control['exact']:.2f})")
        made.add_row(
            cell["axis"], cell["value"], f"{cell['parameters']:,}", str(cell["level"]), *shown
        )
    return made


def plot(found: Found, path: str | PathLike[str] | None = None) -> Picture:
    """Bars with intervals, one panel an axis; dots are the memory reset.

    Args:
        found: the cells.
        path: where the picture is written, if anywhere.
    """
    axes = list(dict.fromkeys(cell["axis"] for cell in found))
    columns = min(3, len(axes))
    lines = -(-len(axes) // columns)
    picture = Picture(figsize=(4.2 * columns, 2.9 * lines), layout="constrained")
    picture.suptitle("Exact answers from memory after a short training", fontsize=12, color=INK)
    panels = picture.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for panel, axis in zip(panels, axes, strict=False):
        _panel(panel, axis, [cell for cell in found if cell["axis"] == axis], facts_of(found))
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=7.5, frameon=False)
    return picture.save(path)


def _panel(panel: Any, axis: str, cells: Found, facts: Sequence[int]) -> None:
    width = 0.8 / len(facts)
    for place, count in enumerate(facts):
        lines = [recall_of(cell, count) for cell in cells]
        at = [number + (place - (len(facts) - 1) / 2) * width for number in range(len(cells))]
        values = [line["exact"] for line in lines]
        below = [max(0.0, line["exact"] - line["interval"][0]) for line in lines]
        above = [max(0.0, line["interval"][1] - line["exact"]) for line in lines]
        panel.bar(
            at, values, width, yerr=[below, above], color=_COLOURS[place % len(_COLOURS)],
            error_kw={"lw": 0.8, "ecolor": GREY}, label=f"{count} fact{'s' if count > 1 else ''}",
        )  # fmt: skip
        resets = [recall_of(cell, count, "reset")["exact"] for cell in cells]
        panel.plot(at, resets, ls="", marker="o", ms=3, color="#b2182b")
    panel.set_title(axis, fontsize=9, color=INK)
    names = [cell["value"].replace(", ", ",\n").replace(" third", "") for cell in cells]
    panel.set_xticks(range(len(cells)), names)
    panel.set_ylim(0, 1)
    panel.tick_params(labelsize=7, colors=GREY)
    panel.spines[["top", "right"]].set_visible(False)
