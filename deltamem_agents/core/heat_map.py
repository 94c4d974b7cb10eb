"""Heat maps without a drawing library: small PNG images, and the memory as notebooks show it."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deltamem_agents.core.state import MemoryState

BLUE_TO_RED = np.array(
    [
        (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240),
        (247, 247, 247), (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43),
        (103, 0, 31),
    ],
    dtype=np.float64,
)  # fmt: skip
_STYLE = (
    "<style>.dm-memory img{image-rendering:pixelated;width:100%;display:block}"
    ".dm-memory figure{margin:0}.dm-memory figcaption{font-size:11px;opacity:.75}</style>"
)


def scale_limit(states: Sequence[NDArray[Any]]) -> float:
    """The end of a diverging scale that all these arrays share.

    The largest half of a hundredth is cut off, so that single entries do not wash out the rest.
    """
    values = np.abs(np.concatenate([state.ravel() for state in states]))
    top = float(np.quantile(values, 0.995)) or float(values.max())
    return top or 1.0


def side_by_side(layer: NDArray[Any]) -> NDArray[np.float32]:
    """One image [R, H (R + 1) - 1] of a layer's states [H, R, R], NaN between the heads."""
    heads, rank, _ = layer.shape
    image = np.full((rank, heads * (rank + 1) - 1), np.nan, np.float32)
    for head in range(heads):
        image[:, head * (rank + 1) : head * (rank + 1) + rank] = layer[head]
    return image


def heat_colours(values: NDArray[Any], top: float) -> NDArray[np.uint8]:
    """Red, green and blue [..., 3] of each value: blue for -top, white for 0, red for top."""
    place = (np.clip(np.nan_to_num(values) / top, -1, 1) + 1) / 2 * 10
    low = np.minimum(place.astype(int), 9)
    part = (place - low)[..., None]
    mixed = BLUE_TO_RED[low] * (1 - part) + BLUE_TO_RED[low + 1] * part
    colours: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return colours


def heat_map_png(values: NDArray[Any], top: float) -> bytes:
    """A PNG with one pixel a value, in the colours of `heat_colours`, clear for NaN.

    Args:
        values: [rows, columns].
        top: end of the scale.
    """
    rows, columns = values.shape
    opaque = np.where(np.isnan(values), 0, 255).astype(np.uint8)
    pixels = np.dstack([heat_colours(values, top), opaque])
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 9)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def data_uri(png: bytes) -> str:
    """A PNG as the source of an HTML image."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def states_html(states: NDArray[Any], top: float | None = None, word: str = "norm") -> str:
    """HTML of states [layers, heads, rank, rank]: one heat map a layer, its heads side by side.

    Args:
        states: what is shown.
        top: end of the scale; None takes it from the states.
        word: what the number at each layer is called.
    """
    top = scale_limit([states]) if top is None else top
    width = min(640, 14 * (states.shape[1] * (states.shape[2] + 1) - 1))
    maps = []
    for layer, values in enumerate(states):
        norm = float(np.sqrt(np.square(values, dtype=np.float64).sum()))
        source = data_uri(heat_map_png(side_by_side(values), top))
        text = escape(f"layer {layer}, {word} {norm:.3g}")
        maps.append(
            f'<figure style="width:{width}px"><figcaption>{text}</figcaption>'
            f'<img alt="{text}" src="{source}"></figure>'
        )
    columns = "display:flex;flex-wrap:wrap;gap:8px 20px"
    legend = f"blue {-top:.3g} &middot; white 0 &middot; red {top:.3g}; heads side by side"
    return (
        f'{_STYLE}<div class="dm-memory"><div style="{columns}">{"".join(maps)}</div>'
        f'<div style="font-size:11px;opacity:.75">{legend}</div></div>'
    )


def memory_html(memory: MemoryState) -> str:
    """What a notebook shows of a memory."""
    ledger = memory.ledger
    line = (
        f"{memory.tokens_written} tokens written &middot; {ledger.evicted_count} messages gone "
        f"from the window, {len(ledger.visible)} visible &middot; norm {memory.norm:.3g} &middot; "
        f"{memory.nbytes / 1024:.0f} KiB &middot; fingerprint {memory.fingerprint[:12]}"
    )
    return f"<div><b>MemoryState</b> {line}</div>{states_html(memory.state)}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
