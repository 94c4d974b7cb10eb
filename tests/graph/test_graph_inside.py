"""Agents inside the graph that say a forgotten value again; and messages that cannot be named."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from typing_extensions import TypedDict

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.state import MemoryAgentState
from tests.graph.test_graph_changes import (
    SECRET,
    WHERE,
    agent,
    close,
    no_bytes,
    replayed,
    say,
    told_nowhere,
)

INSIDE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "supervise"}}


def supervised(model: Any, saver: Any) -> Any:
    """A graph whose node tells a worker the last two things that the user said.

    The worker has a thread of its own; the counting model stands in the network's place.
    """
    worker: Any = create_agent(model, tools=[], checkpointer=True)

    def supervise(state: MessagesState) -> dict[str, Any]:
        said = [m.text for m in state["messages"] if m.type == "human"]
        worker.invoke({"messages": [("user", "context: " + " / ".join(said[-2:]))]})
        return {"messages": [AIMessage("done")]}

    builder = StateGraph(MessagesState).add_node("supervise", supervise)
    return builder.add_edge(START, "supervise").compile(checkpointer=saver)


def tasks(saver: Any) -> list[str]:
    held = saver.get_tuple(INSIDE).checkpoint["channel_values"]["messages"]
    return [message.text for message in held if message.type == "human"]


def told(graph: Any, **options: Any) -> str:
    first = say(graph, f"badge {SECRET}", **options)[0].id
    say(graph, "two", **options)
    say(graph, "three", **options)
    return str(first)


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_a_worker_that_says_it_again_is_reported_or_forgets_its_turn(
    counting: Any, tiny: Any, tmp_path: Path, durability: str
) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver)
        badge = told(graph, durability=durability)
        assert tasks(saver)[1] == f"context: badge {SECRET} / two"
        memory = ThreadMemory(graph, WHERE, model=tiny())
        report = memory.forget(badge, values=[SECRET])
        assert [(one.namespace, one.text) for one in report.repeats] == [
            ("supervise", f"context: badge {SECRET} / two")
        ]
        assert tasks(saver)[0] == report.repeats[0].text, "it was reported, not touched"


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_a_workers_repeat_goes_with_the_turn_in_which_it_was_told(
    counting: Any, tiny: Any, tmp_path: Path, durability: str
) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver)
        badge = told(graph, durability=durability)
        memory = ThreadMemory(graph, WHERE, model=tiny())
        report = memory.forget(badge, values=[SECRET], repeats="forget")
        assert report.repeats == ()
        assert report.purged
        no_bytes(tmp_path)
        told_nowhere(saver)
        assert [m.text for m in graph.get_state(WHERE).values["messages"]] == ["three", "done"]
        assert tasks(saver) == ["context: two / three"]


def test_a_repeat_of_which_nothing_tells_the_turn_is_not_said_to_be_purged(
    counting: Any, tiny: Any, tmp_path: Path
) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver)
        badge = told(graph)
        saver.retain("t", keep_last=2)
        memory = ThreadMemory(graph, WHERE, model=tiny())
        report = memory.forget(badge, values=[SECRET], repeats="forget")
        assert {one.namespace for one in report.repeats} == {"supervise"}
        assert not report.purged


def test_a_graph_inside_that_shares_the_messages_loses_the_forgotten_turn_only(
    tiny: Any, tmp_path: Path
) -> None:
    model = tiny(context_window=480, low_water=300)

    def note(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"noted {len(state['messages'])}")]}

    inner: Any = StateGraph(MessagesState).add_node("note", note).add_edge(START, "note").compile()
    builder: Any = StateGraph(MemoryAgentState).add_node("inner", inner)
    builder.add_node("chat", memory_node(model))
    builder.add_edge(START, "inner").add_edge("inner", "chat")
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = builder.compile(checkpointer=saver)
        say(graph, "one")
        badge = say(graph, f"badge {SECRET}")[3].id
        before = say(graph, "three")
        report = ThreadMemory(graph, WHERE).forget(badge)
        assert report.purged
        assert list(report.message_ids) == [message.id for message in before[3:6]]
        no_bytes(tmp_path)
        now = graph.get_state(WHERE).values
        assert now["messages"] == [*before[:3], *before[6:]]
        close(now["delta_memory"], replayed(model, now["messages"]))


def test_a_turn_with_a_message_that_has_no_id_is_refused(tiny: Any, tmp_path: Path) -> None:
    hints = get_type_hints(MemoryAgentState, include_extras=True)
    fields: dict[str, Any] = {**hints, "messages": Annotated[list[Any], operator.add]}
    builder: Any = StateGraph(TypedDict("Added", fields))  # type: ignore[operator]
    model = tiny(context_window=480, low_water=300)
    builder.add_node("chat", memory_node(model)).add_edge(START, "chat")
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = builder.compile(checkpointer=saver)
        say(graph, "one")
        say(graph, f"badge {SECRET}")
        before = graph.get_state(WHERE)
        with pytest.raises(ThreadHistoryError, match="human message without one") as caught:
            ThreadMemory(graph, WHERE).forget(lambda message: SECRET in message.text)
        assert "add_messages" in str(caught.value)
        assert graph.get_state(WHERE) == before, "no half of the turn went"


def test_changes_whose_ids_are_made_at_every_reading_are_told(tiny: Any, tmp_path: Path) -> None:
    model = tiny(context_window=480, low_water=300)
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = agent(model, saver)
        for text in ("one", f"badge {SECRET}", "three"):
            graph.invoke({"messages": [("user", text)]}, WHERE)
        badge = graph.get_state(WHERE).values["messages"][2]
        assert badge.id != graph.get_state(WHERE).values["messages"][2].id
        memory = ThreadMemory(graph, WHERE)
        with pytest.raises(ThreadHistoryError, match="makes new ids at every reading"):
            memory.forget(badge.id)
        assert memory.forget(lambda message: SECRET in message.text).purged
        no_bytes(tmp_path)
        told_nowhere(saver)
        now = graph.get_state(WHERE).values
        assert [m.text for m in now["messages"] if m.type == "human"] == ["one", "three"]
        close(now["delta_memory"], replayed(model, now["messages"]))
