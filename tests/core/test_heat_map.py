"""The memory as notebooks show it, without a drawing library."""

from __future__ import annotations

import base64
import io
import re
import sys
from subprocess import run

import numpy as np

from deltamem_agents.core.heat_map import heat_map_png, scale_limit
from deltamem_agents.core.state import Ledger, MemoryState


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    assert image.mode == "RGBA"
    return np.asarray(image)


def test_colours_tell_sign_and_size() -> None:
    values = np.array([[-2.0, -1.0, 0.0], [0.5, 1.0, np.nan]])
    drawn = pixels(heat_map_png(values, 1.0))
    assert drawn.shape == (2, 3, 4)
    assert drawn[0, 0].tolist() == [5, 48, 97, 255]
    assert drawn[0, 1].tolist() == [5, 48, 97, 255]
    assert drawn[0, 2].tolist() == [247, 247, 247, 255]
    assert drawn[1, 0].tolist() == [229, 130, 104, 255]  # half of the way from 244.. to 214..
    assert drawn[1, 1].tolist() == [103, 0, 31, 255]
    assert drawn[1, 2, 3] == 0


def test_a_notebook_shows_each_layer_of_a_memory() -> None:
    state = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    memory = MemoryState(state, state, Ledger(), 12, "0" * 64)
    html = memory._repr_html_()
    assert "12 tokens written" in html
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(sources) == 3
    for layer, source in enumerate(sources):
        drawn = pixels(base64.b64decode(source))
        top = scale_limit([state])
        assert drawn.shape == (4, 9, 4)
        assert (drawn[:, 4, 3] == 0).all()
        red = drawn[:, :4, 0].astype(int) > drawn[:, :4, 2]
        strong = np.abs(state[layer, 0]) > 0.1 * top
        assert (red == (state[layer, 0] > 0))[strong].all()


def test_it_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, numpy as np\n"
        "from deltamem_agents.core.state import Ledger, MemoryState\n"
        "a = np.ones((1, 1, 2, 2), np.float32)\n"
        "MemoryState(a, a, Ledger(), 1, '0' * 64)._repr_html_()\n"
        "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
