"""The README's python snippets run as they are pasted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_when_pasted(number: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[number]],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("Lisbon" in done.stdout, "'value': '48213'" in done.stdout)[number], done.stdout
    assert (tmp_path / "agent.db").is_file()


def test_the_first_thing_to_see_is_what_the_demo_prints() -> None:
    first = TEXT.split("```")[1]
    for words in ("Process 1 (pid", "Process 2 (pid", "Recall with memory", "The promise holds."):
        assert words in first


def test_the_files_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:docs|examples|notebooks|deltamem_agents)/[\w./]*)`", TEXT))
    named |= set(re.findall(r"\]\((docs/[\w./-]*)\)", TEXT))
    assert len(named) >= 15
    assert {name for name in named if not (ROOT / name).exists()} == set()
