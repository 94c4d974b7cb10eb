"""Looking at what a database holds: in namespaces too, and whatever its texts are made of."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.cli.app import run
from deltamem_agents.cli.chat import Talk
from deltamem_agents.cli.console import console
from deltamem_agents.cli.demo_report import _judged
from tests.checkpoint.helpers import config, memory, put

CLEAR, TITLE = "\x1b[2J", "\x1b]0;owned\x07"


def test_a_memory_in_a_namespace_is_looked_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    database = str(tmp_path / "agent.db")
    with SQLAlchemySaver(database) as saver:
        put(saver, config("t"), {"n": 1})
        put(saver, config("t", namespace="research"), {"m": memory(1, tokens=41)})
        put(saver, config("t", namespace=f"wri{CLEAR}ter"), {"m": memory(2, tokens=52)})
    assert run(["inspect", database, "--thread", "t", "--namespace", "research"]) == 0
    shown = capsys.readouterr().out
    assert "41" in shown
    assert "52" not in shown.split("layer 0")[0]
    for options in ([], ["--namespace", "nowhere"]):
        assert run(["inspect", database, "--thread", "t", *options]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "--namespace" in told
        assert "'research', 'wri\\x1b[2Jter'" in told
    assert run(["inspect", database, "--thread", "nobody"]) == 2
    assert "There is 't'; `deltamem inspect" in " ".join(capsys.readouterr().err.split())
    assert run(["inspect", database, "--namespace", "research"]) == 2
    assert "--thread" in capsys.readouterr().err


def test_no_command_sends_a_stored_control_character(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from deltamem_agents import FactStore
    from deltamem_agents.router import Scope

    database = str(tmp_path / "agent.db")
    with SQLAlchemySaver(database) as saver:
        told = HumanMessage(f"My sister lives in So{CLEAR}up.")
        (fact,) = FactStore(saver).record_all([told], Scope("default", "t"))
        put(saver, config(f"t{TITLE}"), {"m": memory()})
    assert "\x1b" in fact.value
    for arguments in (
        ["facts", "list", database, "t"],
        ["facts", "search", database, "t", "Where does my sister live?"],
        ["inspect", database],
        ["inspect", database, "--thread", f"t{TITLE}"],
        ["facts", "forget", database, "t", CLEAR],
        ["db", "stats", database, "--tenant", f"a{CLEAR}"],
    ):
        run(arguments)
        shown = "".join(capsys.readouterr())
        assert "\x1b" not in shown, arguments
        assert "\u241b" in shown, arguments


def test_the_agents_words_and_the_facts_in_a_chat_command_nothing() -> None:
    source = {"fact_id": "12345678", "value": f"soup{TITLE} [/x]"}
    words = AIMessage(f"Here{CLEAR}", response_metadata={"citations": [source]})
    agent: Any = SimpleNamespace(stream=lambda *_, **__: iter([(words, {})]))
    out = console()
    out.file = io.StringIO()
    saver: Any = None
    assert Talk(agent, saver, "t", out).turn("Hello")
    assert out.file.getvalue() == (
        "agent> Here\u241b[2J\n  fact 12345678: soup\u241b]0;owned\u2407 [/x]\n"
    )
    assert _judged(f"a{CLEAR}", "a").plain == "a\u241b[2J"
