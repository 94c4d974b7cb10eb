"""Pictures of a memory: its states, and how strongly a conversation was written."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltamem_agents.core.heat_map import scale_limit, side_by_side
from deltamem_agents.core.state import MemoryState
from deltamem_agents.inspect.figures import (
    DIVERGING,
    GREY,
    INK,
    SEQUENTIAL,
    Picture,
    plain,
    summary,
)
from deltamem_agents.inspect.trace import WriteTrace, trace_writes

_ROWS = 12  # layers below each other before a new column begins
_COLUMNS = 104  # letters in a line of text


def plot_memory(
    state: MemoryState, path: str | PathLike[str] | None = None, *, title: str | None = None
) -> Picture:
    """Draw a memory: one heat map a layer and head, all on one diverging scale.

    Args:
        state: the memory.
        path: where the picture is written, if anywhere; the ending chooses the format.
        title: in place of "The memory".

    Returns:
        A matplotlib `Figure`; notebooks show it.
    """
    return draw_states(
        state.state, title or "The memory", summary(state), "layer {layer}   norm {norm:.3g}"
    ).save(path)


def plot_change(
    before: MemoryState, after: MemoryState, path: str | PathLike[str] | None = None
) -> Picture:
    """Draw what lies between two memories of one adapter: the later minus the earlier.

    Raises:
        StateError: the two have different fingerprints or shapes.
    """
    change = after.diff(before)
    line = (
        f"norm {change.norm:.3g} of the change (before {before.norm:.3g}, after {after.norm:.3g}), "
        f"{change.tokens:+d} tokens written"
    )
    return draw_states(
        after.state - before.state, "The change of the memory", line,
        "layer {layer}   change {norm:.3g}",
    ).save(path)  # fmt: skip


def draw_states(states: NDArray[Any], title: str, line: str, label: str) -> Picture:
    """Draw states [layers, heads, rank, rank] as heat maps; see `plot_memory`."""
    layers, heads, rank, _ = states.shape
    columns = math.ceil(layers / _ROWS)
    rows = math.ceil(layers / columns)
    width = max(2.4, min(7.5, 1.5 * heads)) if columns == 1 else max(2.2, min(4.0, 1.1 * heads))
    height = width / (heads * (rank + 1) - 1) * rank + 0.32
    figure = Picture(
        figsize=(max(7.0, columns * (width + 0.35) + 1.1), rows * height + 1.35),
        layout="constrained",
    )
    figure.suptitle(f"{title}\n", fontsize=13, color=INK, fontweight="bold")
    figure.text(0.5, 1 - 0.38 / figure.get_figheight(), line, ha="center", va="top", fontsize=8.5,
                color=GREY)  # fmt: skip
    grid = figure.subplots(rows, columns, squeeze=False)
    top = scale_limit([states])
    image: Any = None
    for cell in grid.T.flat[layers:]:
        cell.set_axis_off()
    for layer, axes in zip(range(layers), grid.T.flat, strict=False):
        norm = float(np.linalg.norm(states[layer].astype(np.float64)))
        image = axes.imshow(
            side_by_side(states[layer]), cmap=DIVERGING, vmin=-top, vmax=top,
            interpolation="nearest",
        )  # fmt: skip
        axes.set_title(label.format(layer=layer, norm=norm), fontsize=8.5, color=INK, loc="left")
        axes.set_yticks([])
        shown = heads > 1 and (layer % rows == rows - 1 or layer == layers - 1)
        axes.set_xticks([h * (rank + 1) + (rank - 1) / 2 for h in range(heads)] if shown else [])
        if shown:
            axes.set_xticklabels([f"head {head}" for head in range(heads)], fontsize=7.5)
        axes.tick_params(length=0, colors=GREY)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=grid, shrink=min(1.0, 3.5 / (rows * height)), aspect=30)
    bar.ax.tick_params(labelsize=7.5, colors=GREY)
    bar.outline.set_visible(False)
    return figure


def plot_writes(
    model: Any, messages: Any, path: str | PathLike[str] | None = None, *, title: str | None = None
) -> Picture:
    """Draw how strongly each token of a conversation is written, with the text below.

    The strength of a token is its write gate β, the mean over layers, heads and rows.

    Args:
        model: a `ChatDeltaMem` or its engine, which reads the messages into an empty memory; or a
            `WriteTrace`, and `messages` None.
        messages: a conversation in any form that LangChain takes.
        path: where the picture is written, if anywhere.
        title: in place of "Write strength".

    Raises:
        ConfigError: `model` is none of these.
        MessageError, ContextWindowError: the model cannot be given these messages.
    """
    trace = model if isinstance(model, WriteTrace) else trace_writes(model, messages)
    cells, lines = _lay_out(trace)
    course, text = 2.0, 0.2 * lines + 0.15
    figure = Picture(figsize=(9.6, course + text + 0.9), layout="constrained")
    figure.suptitle(title or "Write strength", fontsize=13, color=INK, fontweight="bold")
    upper, lower = figure.subplots(2, 1, height_ratios=[course, text])
    strength = trace.strength
    top = float(strength.max(initial=0.0)) or 1.0
    _draw_course(upper, trace, strength, top)
    _draw_text(figure, lower, trace, cells, lines, strength / top)
    return figure.save(path)


Cell = tuple[int, int, int, str]  # token, column, line, text


def _lay_out(trace: WriteTrace) -> tuple[list[Cell], int]:
    """Set the tokens in lines of equally wide letters; each message begins a new line."""
    cells: list[Cell] = []
    column, line = 0, 0
    for token, text in enumerate(trace.texts):
        begins = token > 0 and trace.messages[token] != trace.messages[token - 1]
        if begins and column:
            column, line = 0, line + 1
        for index, piece in enumerate(text.split("\n")):
            if index:
                cells.append((token, column, line, "\u23ce"))
                column, line = 0, line + 1
            for part in _broken(plain(piece), _COLUMNS):
                if column + len(part) > _COLUMNS:
                    column, line = 0, line + 1
                cells.append((token, column, line, part))
                column += len(part)
    return cells, line + (column > 0)


def _broken(text: str, width: int) -> list[str]:
    return [text[start : start + width] for start in range(0, len(text), width)]


def _draw_course(axes: Any, trace: WriteTrace, strength: NDArray[Any], top: float) -> None:
    """Bars over the tokens, with a band for each second message."""
    from matplotlib import colormaps

    colours = colormaps[SEQUENTIAL](0.15 + 0.85 * strength / top)
    axes.bar(np.arange(len(trace)), strength, width=1.0, color=colours)
    edges = [i for i in range(len(trace)) if i == 0 or trace.messages[i] != trace.messages[i - 1]]
    for number, (start, end) in enumerate(zip(edges, [*edges[1:], len(trace)], strict=True)):
        if number % 2:
            axes.axvspan(start - 0.5, end - 0.5, color="0.95", zorder=0)
        if end - start > 0.045 * len(trace):
            axes.text((start + end - 1) / 2, top * 1.07, trace.roles[start], ha="center",
                      fontsize=7.5, color=GREY)  # fmt: skip
    axes.set(xlim=(-0.5, len(trace) - 0.5), ylim=(0, top * 1.18))
    axes.set_ylabel("β, mean over layers", fontsize=8, color=GREY)
    axes.set_xlabel("token", fontsize=8, color=GREY)
    axes.tick_params(labelsize=7.5, colors=GREY)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_text(
    figure: Picture, axes: Any, trace: WriteTrace, cells: list[Cell], lines: int,
    share: NDArray[Any],
) -> None:  # fmt: skip
    """The text, each token on a ground as dark as its strength."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, _COLUMNS), ylim=(lines, 0))
    axes.set_axis_off()
    letter = 8.75 * 72 / _COLUMNS / 0.602  # points: the font's letters are 0.602 em wide
    for token, column, line, text in cells:
        if trace.written[token]:
            colour = colormaps[SEQUENTIAL](0.8 * float(share[token]))
            axes.add_patch(Rectangle((column, line + 0.06), len(text), 0.88, color=colour, lw=0))
        quiet = bool(trace.special[token]) or text == "\u23ce"
        ink = GREY if quiet else INK
        if trace.written[token] and share[token] > 0.78:
            ink = "0.9" if quiet else "white"
        axes.text(column, line + 0.54, text, family="DejaVu Sans Mono", fontsize=letter,
                  color=ink, va="center", parse_math=False)  # fmt: skip
