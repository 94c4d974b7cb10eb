"""Heat maps and written text at a terminal: in colours, or in signs where it shows none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from deltamem_agents.core.heat_map import heat_colours, scale_limit, side_by_side
from deltamem_agents.core.state import MemoryState
from deltamem_agents.inspect.visible import visible

if TYPE_CHECKING:
    from deltamem_agents.inspect.trace import WriteTrace

ABOVE = " \u2591\u2592\u2593\u2588"
BELOW = " \u00b7-=\u2261"
"""Signs of a value above, or below, zero: from near zero to the end of the scale, in fifths."""
_TENTHS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"


@dataclass(frozen=True)
class ByColour:
    """Two forms of one thing; where it is printed decides which is shown.

    Args:
        coloured: for a terminal with colours.
        plain: for a pipe, a file, NO_COLOR, or a terminal without colours.
    """

    coloured: RenderableType
    plain: RenderableType

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Rich asks for what is printed."""
        has_colours = console.color_system is not None and not console.no_color
        yield self.coloured if has_colours else self.plain


def memory_maps(memory: MemoryState) -> RenderableType:
    """The heat maps of a memory, with its summary."""
    return Group(Text(repr(memory)), state_maps(memory.state, memory.layer_norms))


def state_maps(states: NDArray[Any], norms: Sequence[float]) -> RenderableType:
    """The heat maps of states [layers, heads, rank, rank], heads side by side, with the legend.

    Args:
        states: what is shown.
        norms: of each layer.
    """
    top = scale_limit([states])
    coloured, plain = [], []
    for layer, (values, norm) in enumerate(zip(states, norms, strict=True)):
        title, image = f"layer {layer}, norm {norm:.3g}", side_by_side(values)
        coloured.append(Padding(Group(title, *_half_blocks(image, top)), (0, 2, 1, 0)))
        plain.append(Padding(Group(title, *_signs(image, top)), (0, 2, 1, 0)))
    colours = f"blue {-top:.3g}, white 0, red {top:.3g}; heads side by side"
    signs = f"{-top:.3g} {BELOW[:0:-1]} 0 {ABOVE[1:]} {top:.3g}; heads side by side"
    return ByColour(Group(Columns(coloured), Text(colours)), Group(Columns(plain), Text(signs)))


def _half_blocks(image: NDArray[Any], top: float) -> Iterator[Text]:
    """Blue below zero and red above; two rows a line."""
    rows, columns = image.shape
    padded = np.vstack([image, np.full((rows % 2, columns), np.nan, image.dtype)])
    colours, clear = heat_colours(padded, top), np.isnan(padded)
    for row in range(0, padded.shape[0], 2):
        line = Text(no_wrap=True)
        for column in range(columns):
            above, below = (_rgb(colours[row + i, column]) for i in (0, 1))
            if clear[row, column]:
                line.append(" ")
            elif clear[row + 1, column]:
                line.append("\u2580", style=above)
            else:
                line.append("\u2580", style=f"{above} on {below}")
        yield line


def _signs(image: NDArray[Any], top: float) -> Iterator[Text]:
    """One sign a value, one row a line; a bar between the heads."""
    for row in image:
        steps = np.minimum(5 * np.abs(np.nan_to_num(row)) / top, 4).astype(int)
        cells = zip(row, steps, strict=True)
        signs = (
            "\u2502" if np.isnan(v) else (ABOVE if v > 0 else BELOW)[step] for v, step in cells
        )
        yield Text("".join(signs), no_wrap=True)


def written(trace: WriteTrace) -> RenderableType:
    """The conversation, each token as strongly marked as it was written."""
    title = "How strongly each token was written"
    signs = f"{title} (raised: tenths of the strongest)"
    return ByColour(
        Group(Text(title, style="bold"), _text(trace, raised=False)),
        Group(Text(signs), _text(trace, raised=True)),
    )


def _text(trace: WriteTrace, *, raised: bool) -> Text:
    """The text on a ground as strong as it was written, or with raised digits."""
    strength = trace.strength
    share = strength / (float(strength.max(initial=0.0)) or 1.0)
    line = Text()
    for token, piece in enumerate(map(visible, trace.texts)):
        if token and trace.messages[token] != trace.messages[token - 1]:
            line.append("" if line.plain.endswith("\n") else "\n")
        if not trace.written[token] or share[token] < 0.05:
            line.append(piece, style="dim" if trace.special[token] else "")
        elif raised:
            tenths = _TENTHS[min(round(10 * share[token]), 9)]
            line.append(piece.rstrip("\n") + tenths + piece[len(piece.rstrip("\n")) :])
        else:
            red = round(255 - 60 * share[token])
            rest = round(235 * (1 - share[token]))
            line.append(piece, style=f"black on rgb({red},{min(rest + 20, 255)},{rest})")
    return line


def _rgb(colour: NDArray[Any]) -> str:
    red, green, blue = (int(part) for part in colour)
    return f"rgb({red},{green},{blue})"
