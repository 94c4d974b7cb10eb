"""Forgetting in a pruned thread whose helper behind a tool keeps its state as changes.

Nothing but the saver's hidden chain tells what the helper holds: its reducers are unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory
from tests.graph.test_graph_changes import (
    SECRET,
    WHERE,
    Asks,
    Filing,
    agent,
    joined,
    no_bytes,
    say,
    state_of,
)


class Pausing(AgentMiddleware[Any, Any, Any]):
    """Makes a run longer: four steps that change nothing."""

    def before_agent(self, state: Any, runtime: Any) -> None: ...
    def before_model(self, state: Any, runtime: Any) -> None: ...
    def after_model(self, state: Any, runtime: Any) -> None: ...
    def after_agent(self, state: Any, runtime: Any) -> None: ...


Held = list[tuple[list[str], list[str]]]


def helped(model: Any, saver: Any, keeps: bool | None) -> tuple[Any, Held]:
    """An agent with a helper that files a note of every task; and what the helper held, by call."""
    helper: Any = create_agent(
        model,
        tools=[],
        middleware=[Filing(), Pausing(), DeltaMemMiddleware()],
        state_schema=state_of(joined),
        checkpointer=keeps,
    )
    held: Held = []

    @tool
    def ask(what: str) -> str:
        """Ask the helper."""
        out = helper.invoke({"messages": [HumanMessage(f"task: {what}")]})
        tasks = [message.text for message in out["messages"] if message.type == "human"]
        held.append((list(out["files"]), tasks))
        return "asked"

    return agent(model, saver, tools=[ask], before=[Asks()]), held


def told(graph: Any, texts: tuple[str, ...]) -> str:
    for text in texts:
        say(graph, text)
    said = graph.get_state(WHERE).values["messages"]
    return str(next(message.id for message in said if SECRET in message.text))


def test_a_helper_keeps_what_only_hidden_checkpoints_hold(tiny: Any, tmp_path: Path) -> None:
    model = tiny(context_window=900, low_water=700)
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph, held = helped(model, saver, True)
        badge = told(graph, ("one", "two", f"badge {SECRET}", "four"))
        assert saver.retain("t", keep_last=3).hidden > 0
        report = ThreadMemory(graph, WHERE).forget(badge)
        assert badge in report.message_ids
        assert not report.purged, "nothing tells what the helper was told in that turn"
        files, tasks = held[-1]
        say(graph, "five")
        assert held[-1] == ([*files, "note 10"], [*tasks, "task: five"])


def test_a_helper_whose_hidden_past_holds_it_is_refused(tiny: Any, tmp_path: Path) -> None:
    model = tiny(context_window=900, low_water=700)
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph, held = helped(model, saver, True)
        badge = told(graph, ("one", "two", f"badge {SECRET}"))
        last = next(saver.list({"configurable": {"thread_id": "t", "checkpoint_ns": "tools"}}))
        asked = last.metadata["parents"][""]
        own = saver.list({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
        since = sum(one.checkpoint["id"] >= asked for one in own)
        assert saver.retain("t", keep_last=since).hidden > 0
        before = list(saver.list(WHERE))
        with pytest.raises(ThreadHistoryError, match="agent 'tools', which is no node") as caught:
            ThreadMemory(graph, WHERE).forget(badge)
        assert "before the thread is pruned" in str(caught.value)
        assert repr(list(saver.list(WHERE))) == repr(before), "nothing was touched"
        files, tasks = held[-1]
        say(graph, "four")
        assert held[-1] == ([*files, "note 8"], [*tasks, "task: four"])


def test_a_helper_of_one_call_leaves_nothing_hidden(tiny: Any, tmp_path: Path) -> None:
    model = tiny(context_window=900, low_water=700)
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph, held = helped(model, saver, None)
        badge = told(graph, ("one", "two", f"badge {SECRET}"))
        assert saver.retain("t", keep_last=6).hidden > 0
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        no_bytes(tmp_path)
        say(graph, "four")
        assert held[-1] == (["note 2"], ["task: four"])
