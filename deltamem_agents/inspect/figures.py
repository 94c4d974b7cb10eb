"""What all pictures share: a figure that notebooks show, colours, and text that has its glyphs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deltamem_agents.core.state import MemoryState

DIVERGING = "RdBu_r"
SEQUENTIAL = "YlOrRd"
GREY, INK = "0.45", "0.15"


class Picture(Figure):  # type: ignore[misc]
    """A matplotlib figure that shows itself in notebooks; pyplot and its state are not involved."""

    def png(self, dots: int = 110) -> bytes:
        """The figure as PNG.

        Args:
            dots: per inch.
        """
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dots)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()

    def save(self, path: str | PathLike[str] | None) -> Picture:
        """Write the figure to a file, if there is a path; returns the figure."""
        if path is not None:
            self.savefig(path, dpi=130)
        return self


def heads_side_by_side(layer: NDArray[Any]) -> NDArray[Any]:
    """One image [R, H (R + 1) - 1] of a layer's states [H, R, R], with a gap between heads."""
    heads, rank, _ = layer.shape
    image = np.full((rank, heads * (rank + 1) - 1), np.nan, np.float32)
    for head in range(heads):
        image[:, head * (rank + 1) : head * (rank + 1) + rank] = layer[head]
    return image


def limit(states: Sequence[NDArray[Any]]) -> float:
    """The end of a diverging scale that all these arrays share.

    The largest hundredth is cut off, so that single entries do not wash out the rest.
    """
    values = np.abs(np.concatenate([state.ravel() for state in states]))
    top = float(np.quantile(values, 0.995)) or float(values.max())
    return top or 1.0


def summary(state: MemoryState) -> str:
    """One line about a memory."""
    told = state.describe()
    return (
        f"{told['tokens_written']} tokens written, {told['messages_evicted']} messages gone from "
        f"the window, {told['messages_visible']} visible; norm {told['norm']:.3g}, "
        f"{told['bytes'] / 1024:.0f} KiB"
    )


def plain(text: str) -> str:
    """Text with a box for each letter that the pictures' font lacks (which would warn)."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans Mono")).get_charmap()
    return "".join(c if ord(c) in known and c.isprintable() else "\u25a1" for c in text)
