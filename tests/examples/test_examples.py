"""Every example runs as its first lines say, in a folder of its own, and ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"chat", "agent_with_memory"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"Run: python examples/{path.name}" in text
    assert len(text.splitlines()) >= 15
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_agent_example_keeps_users_apart_and_forgets() -> None:
    import runpy

    shown = runpy.run_path(str(ROOT / "examples" / "agent_with_memory.py"))["main"]()
    assert "48213" in shown["exact"]
    assert shown["citations"][0]["value"] == "48213"
    assert "48213" not in shown["after"]
    assert "977" in shown["bob"]
    assert "48213" not in shown["bob"]
