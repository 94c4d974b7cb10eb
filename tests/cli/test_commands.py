"""The commands on real databases and a tiny real model."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig

from deltamem_agents.cli.app import run
from deltamem_agents.cli.chat import _greeting
from deltamem_agents.cli.console import quiet, sqlite_path


def ran(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    """Run a command; what it printed, each run of white space as one blank."""
    ended = run([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert ended == status, shown.out + shown.err
    return " ".join(shown.out.split())


def model_of(folder: Path) -> list[object]:
    return ["--model", folder / "backbone", "--adapter", folder / "adapter"]


def talk(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *lines: str,
) -> str:
    """Chat by typing lines."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    where = ["--db", folder / "chat.db", *model_of(folder)]
    return ran(capsys, "chat", *where, "--max-tokens", 4)


def test_chat_goes_on_in_another_call_and_forgets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    said = talk(capsys, monkeypatch, tiny, "/memory", "I like figs.", "/memory", "/exit")
    assert "Nothing has been said yet." in said
    assert "2 messages visible, 0 only in the memory" in said
    assert "Type /help for the commands. you>" in said  # what to say is told of the built-in model

    said = talk(capsys, monkeypatch, tiny, "/memory", "And plums.", "/forget figs", "/memory")
    assert "2 messages visible" in said
    assert "2 messages are gone; the memory was rebuilt without what was said there" in said
    assert said.endswith("2 messages visible, 0 only in the memory you>")

    said = talk(capsys, monkeypatch, tiny, "/reset", "/memory", "/nonsense", "/forget", "/help")
    assert "Everything of this conversation is gone." in said
    assert said.index("is gone.") < said.index("Nothing has been said yet.")
    assert "There is no command /nonsense" in said
    assert "Say what to forget" in said
    assert said.count("/help this list") == 2


def test_who_chats_with_the_built_in_model_is_told_what_it_understands() -> None:
    first, hint = _greeting("agent.db", "chat", built_in=True).splitlines()
    assert first == "Thread 'chat' in agent.db. Type /help for the commands."
    assert "Remember that my boss's home city is Lisbon." in hint
    assert _greeting("agent.db", "chat", built_in=False) == first


def test_a_turn_that_fails_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    from deltamem_agents import FactStore, SQLAlchemySaver
    from deltamem_agents.router import Scope

    thread = RunnableConfig(configurable={"thread_id": "chat"})
    long = "My locker code is 48213. " + "So it goes. " * 20
    lines = ["Hi.", long, "/memory", "Yes."]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    where = ["--db", tiny / "chat.db", *model_of(tiny), "--max-tokens", 4]
    said = ran(capsys, "chat", *where, "--window", 120, "--router")
    assert "ChatContextError: system prompt, tools and the last turn have at most" in said
    assert said.index("ChatContextError") < said.index("This turn was taken back")
    assert said.count("taken back") == 1
    assert "2 messages visible, 0 only in the memory" in said
    with SQLAlchemySaver(tiny / "chat.db") as saver:
        kept = saver.get_tuple(thread)
        assert kept is not None
        told = kept.checkpoint["channel_values"]["messages"]
        assert [m.type for m in told] == ["human", "ai", "human", "ai"]
        assert [m.text for m in told[::2]] == ["Hi.", "Yes."]
        assert FactStore(saver).facts(Scope("default", "chat"), closed=True) == ()


def test_a_reply_that_is_interrupted_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    from deltamem_agents import ChatDeltaMem, SQLAlchemySaver

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert "2 messages visible" in talk(capsys, monkeypatch, tiny, "Hi.", "/memory")
    thread = RunnableConfig(configurable={"thread_id": "chat"})
    with SQLAlchemySaver(tiny / "chat.db") as saver:
        before = saver.memory_at(thread)
    monkeypatch.setattr(ChatDeltaMem, "_stream", interrupted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("And you?\n"))
    where = ["--db", tiny / "chat.db", *model_of(tiny)]
    assert "taken back" in ran(capsys, "chat", *where, status=130)
    with SQLAlchemySaver(tiny / "chat.db") as saver:
        kept = saver.get_tuple(thread)
        assert kept is not None
        assert len(kept.checkpoint["channel_values"]["messages"]) == 2
        assert saver.memory_at(thread) == before


def test_a_thread_that_forgot_everything_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    said = talk(capsys, monkeypatch, tiny, "I like figs.", "/forget figs", "/memory", "/quit", "No")
    assert "Nothing has been said yet." in said
    assert said.endswith("you>")
    assert run(["inspect", str(tiny / "chat.db"), "--thread", "chat"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "ThreadHistoryError: a thread that is looked at has a memory; got 'chat', which" in told
    assert "all that it was told was forgotten" in told
    assert "Its next turn with one of them makes a memory" in told


def test_a_database_is_made_counted_pruned_and_inspected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    database, picture, page = tiny / "chat.db", tiny / "memory.png", tiny / "page.html"
    assert "is ready" in ran(capsys, "db", "init", database)
    talk(capsys, monkeypatch, tiny, "One.", "Two.", "Three.")
    assert "threads 1 checkpoints 9" in ran(capsys, "db", "stats", database)
    listed = ran(capsys, "inspect", database)
    assert re.search("chat 9 [0-9]+ [0-9.]+ [\u2581-\u2588]{3} ", listed), listed
    course = ran(capsys, "inspect", database, "--thread", "chat")
    assert "MemoryState(layers=2" in course
    names = re.findall(r"[\u2502\u25cf] ([0-9a-f-]{12}) ", course)
    assert len(names) == 3
    chat = ["inspect", database, "--thread", "chat"]
    assert f"Picture: {picture}" in ran(capsys, *chat, "--picture", picture).replace("\n", "")
    assert picture.read_bytes().startswith(b"\x89PNG")
    ran(capsys, *chat, "--html", page, "--writes", *model_of(tiny))
    assert "<!doctype html>" in page.read_text(encoding="utf-8").lower()
    assert "layer" in ran(capsys, *chat, "--compare", f"{names[0]},{names[2]}")
    assert run(["inspect", str(database), "--html", str(page)]) == 2
    assert "--thread" in capsys.readouterr().err
    assert run([*map(str, chat), "--compare", names[0]]) == 2
    assert "two checkpoints are compared" in capsys.readouterr().err
    assert "Would remove: 8 checkpoints" in ran(
        capsys, "db", "prune", database, "--keep-last", 1, "--dry-run"
    )
    assert "Removed: 8 checkpoints" in ran(capsys, "db", "prune", database, "--keep-last", 1)
    assert "threads 1 checkpoints 1" in ran(capsys, "db", "stats", database)
    assert ran(capsys, "db", "vacuum", database) == "Collected: nothing"
    assert "up to date" in ran(capsys, "db", "upgrade", database)


def test_facts_are_listed_found_and_forgotten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from deltamem_agents import FactStore, SQLAlchemySaver
    from deltamem_agents.router import Scope

    database = tmp_path / "facts.db"
    with SQLAlchemySaver(str(database)) as saver:
        told = [HumanMessage("My locker code is 48213.", id="a"), HumanMessage("I live in Oslo.")]
        facts = FactStore(saver).record_all(told, Scope("default", "t"))
    code = next(fact for fact in facts if fact.value == "48213")
    listed = ran(capsys, "facts", "list", database, "t")
    assert "48213" in listed
    assert "Oslo" in listed
    assert "48213" in ran(capsys, "facts", "search", database, "t", "what is my locker code?")
    said = ran(capsys, "facts", "forget", database, "t", code.fact_id[:8])
    assert said == "Forgotten: 1; said elsewhere: 0."
    assert "48213" not in ran(capsys, "facts", "list", database, "t")
    for fact in facts:
        if fact is not code:
            ran(capsys, "facts", "forget", database, "t", fact.fact_id)
    assert ran(capsys, "facts", "list", database, "t") == "No facts."  # a thread that had some
    assert run(["facts", "forget", str(database), "t", "no-such"]) == 2
    assert "FactStoreError" in capsys.readouterr().err


@pytest.mark.parametrize("watched", [True, False])
def test_loading_bars_are_shown_to_who_watches(
    monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    try:
        logging.enable_progress_bar()
        monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: watched))
        quiet()
        assert logging.is_progress_bar_enabled() is watched
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def test_an_adapter_changes_its_format_and_comes_back(
    capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    from deltamem_agents.adapter.files import read

    model = ["--model", tiny / "backbone"]
    ran(capsys, "convert", tiny / "adapter", tiny / "official", *model, "--to", "official")
    assert (tiny / "official/delta_mem_adapter.pt").is_file()
    ran(capsys, "convert", tiny / "official", tiny / "again", *model)
    before, after = read(tiny / "adapter")[1], read(tiny / "again")[1]
    assert before.keys() == after.keys()
    assert len(before) > 10
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert run(["convert", str(tiny / "official"), str(tiny / "again"), *map(str, model)]) == 2
    assert "new or empty folder" in " ".join(capsys.readouterr().err.split())


def test_recall_and_router_write_their_numbers(
    capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    result = tiny / "router.json"
    ran(capsys, "eval", "router", "--threads", 2, "--json", result)
    assert json.loads(result.read_text())["hits across tenants"] == 0


def test_tasks_are_evaluated_and_written(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    result = tiny / "run.json"
    few = ["--count", 1, *model_of(tiny), "--window", 400, "--json", result]
    few += ["--subjects", "memory,reset,bm25"]
    shown = ran(capsys, "eval", "mqar", "--sizes", "1,2", *few)
    assert "mqar, state only" in shown
    assert "BM25 RAG" in shown
    found = json.loads(result.read_text())
    assert [(row["group"], row["answers"]) for row in found["rows"]] == [
        *[("1 pairs", 1)] * 3, *[("2 pairs", 2)] * 3,
    ]  # fmt: skip
    assert found["costs"]["memory"]["bytes"] > 0
    assert not (tiny / "run.json.part").exists()
    ran(capsys, "eval", "mqar", "--forgetting", "--sizes", "2", *few)
    assert json.loads(result.read_text())["rows"][0]["told again"] is True
    ran(capsys, "eval", "needle", "--lengths", "40", *few)
    assert json.loads(result.read_text())["lengths"] == [40]
    ran(capsys, "eval", "variables", "--lengths", "40", *few)
    assert json.loads(result.read_text())["hops"] == 2
    ran(capsys, "eval", "ttl", *few)
    assert {row["kind"] for row in json.loads(result.read_text())["rows"]} == {
        "labels", "rules", "preferences",
    }  # fmt: skip
    few = ["--refusals", 1, "--calls", 1, *model_of(tiny), "--window", 900, "--json", result]
    assert "under a system prompt" in ran(capsys, "eval", "instructed", *few)
    assert {row["of"] for row in json.loads(result.read_text())["rows"].values()} == {1}
    assert run(["eval", "mqar", "--sizes", "some"]) == 2
    assert run(["eval", "mqar", "--subjects", "oracle"]) == 2
    assert "a subject is one of memory" in capsys.readouterr().err


def test_a_published_data_set_is_evaluated_from_its_file(
    capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    data, result = tiny / "hotpot.json", tiny / "run.json"
    record = {
        "_id": "a", "question": "Who?", "answer": "Ann", "type": "bridge",
        "context": [["It", ["Ann did."]]],
    }  # fmt: skip
    data.write_text(json.dumps([record]))
    shown = ran(
        capsys, "eval", "hotpotqa", data, *model_of(tiny), "--subjects", "memory,off",
        "--json", result,
    )  # fmt: skip
    assert "hotpotqa, a window of 512 tokens" in shown
    rows = json.loads(result.read_text())["rows"]
    assert [row["subject"] for row in rows] == ["memory", "off"]
    assert all(0 <= row["f1"] <= 1 for row in rows)
    assert run(["eval", "hotpotqa", str(tiny / "nothing.json")]) == 2


def test_the_version_is_printed_by_the_module_too() -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "deltamem_agents.cli", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("agent.db", "agent.db"),
        ("sqlite:///agent.db", "agent.db"),
        ("sqlite:////tmp/agent.db", "/tmp/agent.db"),
        ("sqlite+aiosqlite:///a.db?timeout=3", "a.db"),
        (":memory:", None),
        ("sqlite://", None),
        ("postgresql://localhost/agents", None),
    ],
)
def test_the_file_of_a_database_url(given: str, path: str | None) -> None:
    assert sqlite_path(given) == (None if path is None else Path(path))


def test_the_paper_s_table_and_an_ablation_are_commands(
    capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path
) -> None:
    record = {
        "question": "Where is the cat?", "answer": "garden", "type": "bridge",
        "context": [["Cat", ["The cat is in the garden."]]],
    }  # fmt: skip
    (tmp_path / "hotpot_dev.json").write_text(json.dumps([{**record, "_id": n} for n in "ab"]))
    asked = ["--data", tmp_path, "--json", tmp_path / "paper.json", "--rows", "full,memory,swapped"]
    shown = ran(capsys, "eval", "paper", *model_of(tiny), *asked, "--window", 512)
    assert "the published table" in shown
    rows = json.loads((tmp_path / "paper.json").read_text())["rows"]
    assert [row["subject"] for row in rows] == ["full", "memory", "swapped"]
    assert all(0 <= row["Hotpot F1"] <= 100 and row["LoCoMo"] is None for row in rows)
    small = ["--steps", 1, "--tokens", 200, "--conversations", 1, "--axes", "write"]
    folder = tmp_path / "ablation"
    shown = ran(capsys, "eval", "ablation", "--output", folder, *small)
    assert all(name in shown for name in ("TSW", "SSW", "MSW"))
    assert len(json.loads((folder / "ablation.json").read_text())["cells"]) == 3
