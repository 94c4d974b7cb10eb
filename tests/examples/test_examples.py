"""The examples run as their first lines say, in a folder of their own, and end well."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"streaming", "structured_output", "tools"}  # tests/chat
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.stem not in ELSEWHERE]


@pytest.fixture(scope="module")
def model() -> Any:
    """Keeps the built-in engine loaded, so that each example shares it."""
    from deltamem_agents import ChatDeltaMem

    return ChatDeltaMem()


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"chat", "agent_with_memory"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(
    path: Path,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"Run: python examples/{path.name}" in text
    assert len(text.splitlines()) >= 15
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_agent_example_keeps_users_apart_and_forgets(model: Any) -> None:
    shown = runpy.run_path(str(ROOT / "examples" / "agent_with_memory.py"))["main"]()
    assert "48213" in shown["exact"]
    assert shown["citations"][0]["value"] == "48213"
    assert "48213" not in shown["after"]
    assert "977" in shown["bob"]
    assert "48213" not in shown["bob"]
