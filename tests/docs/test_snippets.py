"""Every snippet marked `python` in the docs runs, page by page, on the built-in model.

Snippets marked `py` need a server, a download or a GPU and are only compiled.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

# PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(python|py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def snippets(page: Path, kind: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text("utf-8")) if name == kind]


WITH_CODE = [page for page in PAGES if snippets(page, "python")]


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


def test_the_pages_with_code_are_known() -> None:
    assert len(WITH_CODE) >= 10
    assert DOCS / "index.md" in WITH_CODE


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "snippet"}
    for number, code in enumerate(snippets(page, "python"), 1):
        exec(compile(code, f"{name(page)}, snippet {number}", "exec"), space)


def test_snippets_that_do_not_run_are_valid_python() -> None:
    codes = [code for page in PAGES for code in snippets(page, "py")]
    assert len(codes) >= 2
    for code in codes:
        compile(code, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_page_of_errors_is_current(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.stdout.write(runpy.run_path(sys.argv[1])['render']())"
    script = str(DOCS / "generate_errors.py")
    done = subprocess.run(
        [sys.executable, "-c", code, script], check=True, capture_output=True, encoding="utf-8"
    )
    hint = "out of date: run `python docs/generate_errors.py`"
    assert done.stdout == (DOCS / "errors.md").read_text("utf-8"), hint


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_docs_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", link):
            assert (page.parent / link).exists(), link


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES:
        assert f": {name(page)}\n" in navigation, page
