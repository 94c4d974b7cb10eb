"""What all pictures share: a figure that notebooks show, colours, and text that has its glyphs."""

from __future__ import annotations

import io
from os import PathLike

from matplotlib.figure import Figure

from deltamem_agents.core.state import MemoryState

DIVERGING = "RdBu_r"
SEQUENTIAL = "YlOrRd"
GREY, INK = "0.45", "0.15"


class Picture(Figure):
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
