"""Forgetting in threads that began anew, that were edited, or that wait in the middle of a run."""

from __future__ import annotations

import operator
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.state import MemoryAgentState
from tests.graph.test_graph_operators import close
from tests.graph.test_graph_unfinished import SECRET, WHERE, agent

OTHER: Any = {"configurable": {"thread_id": "other"}}


@pytest.fixture
def model(tiny: Any) -> Any:
    return tiny(context_window=480, low_water=300)


def say(graph: Any, text: str, where: Any = WHERE) -> Any:
    return graph.invoke({"messages": [HumanMessage(text)]}, where)


def badge_of(graph: Any, where: Any = WHERE) -> str:
    messages = graph.get_state(where).values["messages"]
    return str(next(message.id for message in messages if SECRET in message.text))


def as_read_from(model: Any, graph: Any, where: Any, first: MemoryState | None) -> None:
    now = graph.get_state(where).values
    plain = [to_dict(message) for message in now["messages"]]
    assert not [message for message in now["messages"] if SECRET in message.text]
    close(now["delta_memory"], model.engine.read(first, plain))


def another_memory(graph: Any) -> MemoryState:
    say(graph, "another thread", OTHER)
    memory = ThreadMemory(graph, OTHER).memory()
    assert memory is not None
    return memory


def test_a_thread_that_began_anew_keeps_what_it_began_with(model: Any, file_saver: Any) -> None:
    graph = agent(model, file_saver)
    say(graph, "one")
    say(graph, "two")
    first = ThreadMemory(graph, WHERE).import_from(another_memory(graph), replace=True)
    say(graph, f"badge {SECRET}")
    ThreadMemory(graph, WHERE).forget(badge_of(graph))
    as_read_from(model, graph, WHERE, first)


def test_a_branch_from_before_a_new_beginning_knows_nothing_of_it(
    model: Any, file_saver: Any
) -> None:
    graph = agent(model, file_saver)
    say(graph, f"badge {SECRET}")
    fork = graph.get_state(WHERE).config
    ThreadMemory(graph, WHERE).import_from(another_memory(graph), replace=True)
    say(graph, "on the other branch", fork)
    branch = graph.get_state(WHERE).config
    ThreadMemory(graph, WHERE).forget(badge_of(graph))
    as_read_from(model, graph, branch, None)


def test_a_tool_call_that_was_edited_does_not_hinder_forgetting(
    model: Any, file_saver: Any
) -> None:
    graph = agent(model, file_saver)
    say(graph, f"badge {SECRET}")

    def called(query: str) -> AIMessage:
        call = {"name": "look", "args": {"query": query}, "id": "c1"}
        return AIMessage("", id="call", tool_calls=[call])

    result = ToolMessage("found x", tool_call_id="c1")
    graph.invoke({"messages": [HumanMessage("look"), called("x"), result]}, WHERE)
    graph.update_state(WHERE, {"messages": [called("edited")]}, as_node="model")
    say(graph, "three")
    ThreadMemory(graph, WHERE).forget(badge_of(graph))
    as_read_from(model, graph, WHERE, None)
    held = [
        message for message in graph.get_state(WHERE).values["messages"] if message.id == "call"
    ]
    assert held[0].tool_calls[0]["args"] == {"query": "edited"}


class Noted(MemoryAgentState):
    notes: Annotated[list[str], operator.add]


@pytest.mark.parametrize("parallel", ["note", "chat"])
def test_a_run_that_waits_keeps_what_its_tasks_have_done(
    model: Any, file_saver: Any, parallel: str
) -> None:
    ran: list[str] = []
    chat = memory_node(model)

    def note(state: Noted) -> dict[str, Any]:
        ran.append("note")
        reply: Any = chat.invoke(state) if parallel == "chat" else {}
        return {"notes": ["noted"], **reply}

    def ask(state: Noted) -> dict[str, Any]:
        return {"notes": [interrupt("may I?")]}

    def route(state: Noted) -> list[str]:
        asked = [message.text for message in state["messages"] if message.type == "human"]
        return ["note", "ask"] if asked[-1] == "act" else [END]

    builder = StateGraph(Noted).add_node("chat", chat)
    builder.add_node("note", note).add_node("ask", ask).add_edge(START, "chat")
    builder.add_conditional_edges("chat", route, ["note", "ask", END])
    graph: Any = builder.compile(checkpointer=file_saver)
    say(graph, f"badge {SECRET}")
    say(graph, "act")
    before = graph.get_state(WHERE)
    assert before.interrupts
    report = ThreadMemory(graph, WHERE).forget(badge_of(graph))
    after = graph.get_state(WHERE)
    assert report.purged
    assert (after.next, after.interrupts) == (before.next, before.interrupts)
    done = graph.invoke(Command(resume="yes"), WHERE)
    assert ran == ["note"]
    assert sorted(done["notes"]) == ["noted", "yes"]
    say(graph, "and on")
    as_read_from(model, graph, WHERE, None)


class Numbered(InMemorySaver):
    """Numbers versions as LangGraph's base class does, and keeps each value under its version."""

    def get_next_version(self, current: Any, channel: Any) -> Any:
        return BaseCheckpointSaver.get_next_version(self, current, channel)


def test_versions_in_whole_numbers_do_not_run_into_those_there_are(model: Any) -> None:
    graph = agent(model, Numbered())
    say(graph, "one")
    told = say(graph, f"badge {SECRET}")["messages"]
    badge = badge_of(graph)
    removed = [RemoveMessage(str(message.id)) for message in told[2:]]
    graph.update_state(WHERE, {"messages": [*removed, HumanMessage("a note")]}, as_node="model")
    texts = [message.text for message in graph.get_state(WHERE).values["messages"]]
    assert texts[-1] == "a note"
    ThreadMemory(graph, WHERE).forget(badge)
    assert [message.text for message in graph.get_state(WHERE).values["messages"]] == texts
    for one in graph.get_state_history(WHERE):
        assert not [m for m in one.values.get("messages", []) if SECRET in m.text]
    say(graph, "and on")
    as_read_from(model, graph, WHERE, None)
