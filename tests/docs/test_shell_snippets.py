"""Every line of every shell snippet runs, or is named below with the reason why not.

`deltamem` runs in the process and `python` in another, in a folder that holds what the page speaks
of; what a line names and nobody ships is replaced by ours, and what takes hours is made smaller.
What does not run at all is still parsed by the real command line, or by `make` without running.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.cli.app import run
from tests.docs.commandline import parsed
from tests.docs.pages import CARD, DOCS, PAGES, ROOT, Snippet, commands, snippets

SHELL = [one for page in (*PAGES, CARD) for one in snippets(page, "sh")]
LINES = [(one, line) for one in SHELL for line in commands(one.text)]

NOT_RUN = {
    "git clone <this repository> && cd deltamem-agents": "there is no address yet",
    "pip install --constraint constraints.txt .": "network; check_wheel.py installs",
    "deltamem demo": "minutes; tests/cli/test_demo.py runs it",
    "deltamem eval paper": "a model of 4B and data sets that are fetched",
    "deltamem eval locomo": "a data set that is fetched",
    "deltamem eval memoryagentbench": "a data set that is fetched",
    "deltamem eval ttl Test_Time_Learning.parquet": "a data set that is fetched",
    "deltamem eval hotpotqa": "a data set that is fetched",
    "deltamem eval ifeval": "a data set that is fetched",
    "python -m deltamem_agents.training.builtin": "an hour; tests/training trains",
    "make demo": "minutes; tests/cli/test_demo.py runs it",
    "make lint": "minutes; `make test` runs it beside these tests",
    "make unit": "it runs these tests",
    "make test": "it runs these tests",
    "make docs": "it fetches mkdocs the first time",
}
# What stands in a line, and what a test puts there.
OURS = {
    "Qwen/Qwen3-4B-Instruct-2507": str(ROOT / "deltamem_agents" / "builtin" / "backbone"),
    "--model PATH --adapter PATH": "",
    "a1b2,c3d4": "{first},{last}",
}
# What is appended: the last value of an option counts.
TINY = "--model tiny/backbone --adapter tiny/adapter"
SMALLER = {
    "deltamem eval recall": f"--conversations 1 --facts 1 --subjects memory,reset {TINY}",
    "deltamem eval mqar": f"--count 1 --sizes 1,2 {TINY}",
    "deltamem eval needle": f"--count 2 --lengths 40 {TINY}",
    "deltamem eval variables": f"--count 2 --lengths 40 {TINY}",
    "deltamem eval ttl": f"--count 1 {TINY}",
    "deltamem eval instructed": "--refusals 1 --calls 1",
    "deltamem eval ablation": "--axes rank --steps 1 --conversations 1 --backbone tiny/backbone",
    "deltamem data build": "--conversations 4",
    "deltamem train": "--steps 1 --batch 1 --no-tensorboard",
}
RUN = [(one, line) for one, line in LINES if not line.startswith(tuple(NOT_RUN))]


def test_every_snippet_is_of_a_kind_that_is_tested() -> None:
    """`text` is a demo's output or a drawing; the rest runs: here, or where test_snippets says."""
    kinds = {one.kind for page in (*PAGES, CARD) for one in snippets(page)}
    assert kinds == {"python", "py", "sh", "sql", "json", "text"}
    drawn = {one.page.name for page in PAGES for one in snippets(page, "text")}
    assert drawn == {"README.md", "CONTRIBUTING.md"}


def test_what_does_not_run_is_still_in_the_docs_and_most_lines_run() -> None:
    for start in NOT_RUN:
        assert any(line.startswith(start) for _, line in LINES), start
    assert len(RUN) >= 20


@pytest.mark.parametrize(("snippet", "line"), LINES, ids=lambda value: getattr(value, "name", ""))
def test_a_line_is_one_that_its_program_takes(snippet: Snippet, line: str) -> None:
    program, *rest = shlex.split(line)
    if program == "deltamem":
        parsed(line)
    elif program == "make":
        subprocess.run(["make", "--dry-run", *rest], cwd=ROOT, check=True, capture_output=True)
    elif program == "python":
        script = [rest[0], rest[1]] if rest[0] == "-m" else [str(ROOT / rest[0])]
        done = subprocess.run(
            [sys.executable, *script, "--help"],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        for option in (word for word in rest[len(script) :] if word.startswith("--")):
            assert f"{option} " in done.stdout, f"{snippet.name}: {option}"
    else:
        assert line.startswith(tuple(NOT_RUN)), f"{snippet.name}: {program} is none of ours"


@pytest.mark.parametrize("page", [*PAGES, CARD], ids=lambda page: page.stem)
def test_a_command_that_a_sentence_names_is_one(page: Path) -> None:
    for line in re.findall(r"`(deltamem(?: [^`]*)?)`", page.read_text("utf-8")):
        parsed(line, whole=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder with a model, a database, logs and data sets, and what a line may name of them."""
    from deltamem_agents.testing import save_tiny
    from deltamem_agents.training.builtin import STAGES
    from tests.training.test_formats import LOCOMO, TASKMASTER

    folder = tmp_path_factory.mktemp("shell")
    save_tiny(folder / "tiny")
    (folder / "TM-1-2019.json").write_text(json.dumps(TASKMASTER), "utf-8")
    (folder / "locomo10.json").write_text(json.dumps(LOCOMO), "utf-8")
    (folder / "docs").mkdir()
    shutil.copy(DOCS / "plot_training.py", folder / "docs")
    (folder / "runs" / "builtin").mkdir(parents=True)
    for stage in STAGES:
        log = folder / "runs" / "builtin" / f"{stage.name}.jsonl"
        log.write_text('{"step": 25, "memory loss": 8.0}\n{"step": 50, "memory loss": 4.0}\n')
    return {"folder": folder, **converse(folder / "agent.db")}


def converse(path: Path) -> dict[str, str]:
    """Alice talks to a graph whose subagent has a memory too; its first and last checkpoint."""
    from langchain.agents import create_agent
    from langgraph.graph import START, MessagesState, StateGraph

    from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver
    from deltamem_agents.inspect.course import course

    model = ChatDeltaMem(max_tokens=12)
    agents = {
        name: create_agent(
            model, tools=[], middleware=[DeltaMemMiddleware(shared=name == "answer")],
            checkpointer=None if name == "answer" else True, name=name,
        )
        for name in ("research", "answer")
    }  # fmt: skip
    with SQLAlchemySaver(path) as saver:
        thread = {"configurable": {"thread_id": "alice"}}
        agent = create_agent(model, middleware=[DeltaMemMiddleware()], checkpointer=saver)
        for text in ("Remember that my name is Carla.", "The train was late again."):
            agent.invoke({"messages": [("user", text)]}, thread)
        builder = StateGraph(MessagesState)
        builder.add_node("research", agents["research"]).add_edge(START, "research")
        graph = builder.compile(checkpointer=saver)
        graph.invoke({"messages": [("user", "Remember that my job is florist.")]}, thread)
        points = course(saver, "alice").points
    return {"first": points[0].checkpoint_id[-12:], "last": points[-1].checkpoint_id[-12:]}


@pytest.mark.parametrize(("snippet", "line"), RUN, ids=lambda value: getattr(value, "name", ""))
def test_a_line_runs(
    snippet: Snippet, line: str, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(place["folder"])
    for theirs, ours in OURS.items():
        line = line.replace(theirs, ours.format(**place))
    more = next((text for start, text in SMALLER.items() if line.startswith(start)), "")
    program, *rest = shlex.split(f"{line} {more}")
    if program == "python":
        subprocess.run([sys.executable, *rest], check=True)
    else:
        assert run(rest) == 0, capfd.readouterr().err
        assert capfd.readouterr().out.strip()
