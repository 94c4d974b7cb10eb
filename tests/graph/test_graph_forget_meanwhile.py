"""Forgetting while others write to the thread: what they wrote is not overwritten, nor missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ConflictError
from deltamem_agents.graph import unlearn
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.reports import Forgotten
from tests.checkpoint.conftest import BACKENDS, make_database
from tests.graph.test_graph_operators import close
from tests.graph.test_graph_unfinished import SECRET, WHERE, agent, replayed, told


@pytest.fixture(params=["plain", *BACKENDS])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "plain":
        yield InMemorySaver()
        return
    url, give_back = make_database(request.param, tmp_path)
    with SQLAlchemySaver(url) as made:
        yield made
    give_back()


def in_between(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Any], times: int = 1
) -> list[int]:
    """Has something done after the past was read and before it is rewritten."""
    real, calls = unlearn.rewrite_past, []

    def hooked(*arguments: Any) -> Any:
        if len(calls) < times:
            calls.append(1)
            meanwhile()
        return real(*arguments)

    monkeypatch.setattr(unlearn, "rewrite_past", hooked)
    return calls


def is_nowhere(graph: Any, model: Any, folder: Path) -> None:
    """The text is in no state of the thread, its memory never read it, and no file has it."""
    for one in graph.get_state_history(WHERE):
        assert not [m for m in one.values.get("messages", []) if SECRET in m.text]
    now = graph.get_state(WHERE).values
    close(now["delta_memory"], replayed(model, now["messages"]))
    for part in folder.iterdir():
        assert SECRET.encode() not in part.read_bytes(), part.name


async def awaited(thread: ThreadMemory, badge: str, saver: Any) -> Forgotten:
    try:
        return await thread.aforget(badge)
    finally:
        if isinstance(saver, SQLAlchemySaver):
            await saver.aclose_loop()


@pytest.mark.parametrize("transport", ["sync", "async"])
def test_a_turn_that_runs_meanwhile_is_forgotten_in_too(
    tiny: Any, saver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    model = tiny(context_window=480, low_water=300)
    graph = agent(model, saver)
    badge = told(graph, turns=2)
    say = {"messages": [HumanMessage("told while it worked")]}
    calls = in_between(monkeypatch, lambda: graph.invoke(say, WHERE))
    thread = ThreadMemory(graph, WHERE)
    if transport == "sync":
        report = thread.forget(badge)
    else:
        report = asyncio.run(awaited(thread, badge, saver))
    assert len(calls) == 1
    assert report.purged is isinstance(saver, SQLAlchemySaver)
    is_nowhere(graph, model, tmp_path)
    texts = [message.text for message in graph.get_state(WHERE).values["messages"]]
    assert "told while it worked" in texts


def test_two_forgettings_at_once_bring_nothing_back(
    tiny: Any, saver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(context_window=480, low_water=300)
    graph = agent(model, saver)
    badge = told(graph, turns=3)
    first = graph.get_state(WHERE).values["messages"][0].id
    calls = in_between(monkeypatch, lambda: ThreadMemory(graph, WHERE).forget(badge))
    report = ThreadMemory(graph, WHERE).forget(first)
    assert len(calls) == 1
    assert first in report.message_ids
    is_nowhere(graph, model, tmp_path)
    now = graph.get_state(WHERE).values["messages"]
    assert [message.text for message in now if message.type == "human"] == ["fact 2: 14"]


def test_a_thread_that_never_rests_is_left_as_it_is(
    tiny: Any, saver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = agent(tiny(context_window=480, low_water=300), saver)
    badge = told(graph, turns=2)

    def note() -> None:
        graph.update_state(WHERE, {"messages": [HumanMessage("still here")]}, as_node="model")

    calls = in_between(monkeypatch, note, times=100)
    with pytest.raises(ConflictError, match="stays as it was read"):
        ThreadMemory(graph, WHERE).forget(badge)
    assert 1 < len(calls) < 10
    now = graph.get_state(WHERE).values["messages"]
    assert any(SECRET in message.text for message in now)
    assert [message.text for message in now].count("still here") == len(calls)
