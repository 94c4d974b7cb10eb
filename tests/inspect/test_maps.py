"""Heat maps and written text at a terminal, with colours and without."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from deltamem_agents.inspect.maps import state_maps, written

WITHOUT: tuple[dict[str, Any], ...] = (
    {"force_terminal": False},
    {"force_terminal": True, "color_system": "truecolor", "no_color": True},
    {"force_terminal": True, "color_system": None},
)


def shown(what: RenderableType, **options: Any) -> str:
    out = Console(file=io.StringIO(), width=80, **options)
    out.print(what)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


@pytest.fixture
def maps() -> RenderableType:
    """One layer of two heads; the scale ends at 1."""
    state = np.zeros((1, 2, 3, 3), np.float32)
    state[0, 0] = [[1, 0.7, 0.5], [0.3, 0.1, 0], [-0.1, -0.3, -0.5]]
    state[0, 1, 2] = [-0.7, -1, 1]
    return state_maps(state, [2.0])


@pytest.mark.parametrize("options", WITHOUT, ids=["pipe", "NO_COLOR", "no colours"])
def test_without_colours_signs_tell_sign_and_size(
    maps: RenderableType, options: dict[str, Any]
) -> None:
    text = shown(maps, **options)
    assert "\x1b[38" not in text
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    assert lines == [
        "layer 0, norm 2",
        "\u2588\u2593\u2592\u2502",
        "\u2591  \u2502",
        " \u00b7-\u2502=\u2261\u2588",
        "-1 \u2261=-\u00b7 0 \u2591\u2592\u2593\u2588 1; heads side by side",
    ]


def test_with_colours_each_value_has_its_own(maps: RenderableType) -> None:
    text = shown(maps, force_terminal=True, color_system="truecolor", no_color=False)
    assert "38;2;103;0;31" in text  # red, the end of the scale
    assert "48;2;" in text
    assert "\u2580" in text
    assert "\u2588" not in text
    assert "blue -1, white 0, red 1; heads side by side" in text


def test_without_colours_raised_digits_tell_how_strongly_a_token_was_written() -> None:
    trace: Any = SimpleNamespace(
        strength=np.array([0.8, 0.4, 0.01, 0.2]),
        texts=["cello", " is\n", " a", " b"],
        messages=[0, 0, 0, 1],
        written=[True, True, True, False],
        special=[False] * 4,
    )
    plain = shown(written(trace), force_terminal=False)
    assert plain.splitlines()[1:] == ["cello\u2079 is\u2075", " a", " b"]
    coloured = shown(written(trace), force_terminal=True, color_system="truecolor", no_color=False)
    assert "48;2;195;20;0m" in coloured
    assert "\u2079" not in coloured
