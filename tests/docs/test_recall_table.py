"""The recall table stands in three places and says the same in each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("README.md", "deltamem_agents/builtin/MODEL_CARD.md", "docs/built-in-model.md")


def load() -> object:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_three_tables_are_one() -> None:
    parts = [(ROOT / name).read_text(encoding="utf-8") for name in FILES]
    tables = [text.split("<!-- recall -->")[1].split("<!-- /recall -->")[0] for text in parts]
    assert "| 4 facts, known values | with memory |" in tables[0]
    assert tables[0] == tables[1] == tables[2]


def test_a_row_is_written_for_the_memory_and_the_controls_only() -> None:
    rows = [
        {"group": "1 fact", "subject": subject, "exact": 0.5, "interval": [0.4, 0.6], "answers": 9}
        for subject in ("memory", "off", "reset", "swapped", "full", "shuffled")
    ]
    table = load().recall(  # type: ignore[attr-defined]
        {"distance": {"least": 1, "most": 2}, "context_window": 256, "rows": rows, "count": 9,
         "seed": 3}
    )  # fmt: skip
    lines = [line for line in table.splitlines() if line.startswith("| 1 fact")]
    assert lines[0] == "| 1 fact | with memory | 0.500 [0.40, 0.60] | 9 |"
    assert len(lines) == 4
    assert "9 conversations a row, seed 3" in table


def test_what_a_revised_fact_was_before_has_a_line_of_its_own() -> None:
    row = {"group": "2 revised facts", "subject": "memory", "exact": 0.9, "interval": [0.8, 0.95],
           "old": 0.02, "intervals": {"old": [0.0, 0.04]}, "answers": 9}  # fmt: skip
    table = load().recall(  # type: ignore[attr-defined]
        {"distance": {"least": 1, "most": 2}, "context_window": 256, "rows": [row], "count": 9,
         "seed": 3}
    )  # fmt: skip
    assert "| 2 revised facts: the old one said | with memory | 0.020 [0.00, 0.04] | 9 |" in table


def test_a_place_that_is_not_marked_is_refused() -> None:
    with pytest.raises(ValueError, match="found 0"):
        load().put("no marks here", "recall", "x")  # type: ignore[attr-defined]
