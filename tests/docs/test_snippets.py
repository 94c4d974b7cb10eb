"""Every snippet marked `python` in the docs runs, page by page, on the built-in model.

Snippets marked `py` name a server, a download or a GPU: they run with ours in its place.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

# PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SERVERS = {
    "postgresql": ("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test"),
    "mysql": ("DELTAMEM_TEST_MARIADB_URL", "mysql+pymysql://root@127.0.0.1/test"),
}
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


def test_snippets_that_name_what_is_not_here_are_known() -> None:
    named = {name(page) for page in PAGES if snippets(page, "py")}
    assert named == {"how-to/postgres.md", "how-to/real-models.md"}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", DOCS / "how-to/real-models.md"], ids=lambda p: p.name
)
def test_snippets_with_a_large_model_run_with_the_built_in_one(page: Path) -> None:
    from deltamem_agents import ChatDeltaMem

    builtin = ROOT / "deltamem_agents" / "builtin"
    (code,) = snippets(page, "py")
    replaced = {
        "Qwen/Qwen3-4B-Instruct-2507": str(builtin / "backbone"),
        "declare-lab/delta-mem_qwen3_4b-instruct": str(builtin / "adapter"),
        'device="cuda"': 'device="cpu"',
        "context_window=8192": "context_window=256",
    }
    for there, here in replaced.items():
        code = code.replace(there, here)
    space: dict[str, Any] = {"ChatDeltaMem": ChatDeltaMem}
    exec(compile(code, page.name, "exec"), space)
    assert "sister's pet" in space["model"].invoke("What is my sister's pet?").text


def test_snippets_with_servers_run_on_ours() -> None:
    (code,) = snippets(DOCS / "how-to" / "postgres.md", "py")
    code = code.replace("as saver: ...", "as saver: kinds.append(saver.stats().checkpoints)")
    with ExitStack() as made:
        for backend, (variable, default) in SERVERS.items():
            url = made.enter_context(database(make_url(os.environ.get(variable, default))))
            place = url.render_as_string(hide_password=False).split("://")[1]
            pattern = rf"({backend}[+\w]*)://user:password@host/agents"
            code, count = re.subn(pattern, rf"\g<1>://{place}", code)
            assert count
        space: dict[str, Any] = {"kinds": []}
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        asyncio.run(eval(compile(code, "postgres.md", "exec", flags), space))
    assert space["kinds"] == [0, 0, 0]


@contextmanager
def database(server: URL) -> Iterator[URL]:
    """A new database on a server; skips where that does not answer, and fails with CI set."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    new = f"dm_docs_{uuid.uuid4().hex[:8]}"
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {new}"))
    except OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{server.host} does not answer: {error}")
    try:
        yield server.set(database=new)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {new}"))
        engine.dispose()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_docs_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", link):
            assert (page.parent / link).exists(), link


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES:
        assert f": {name(page)}\n" in navigation, page
