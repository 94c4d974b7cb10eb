"""What agents inside a graph were told in a run that answers several user messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ConfigError, ThreadHistoryError
from deltamem_agents.graph.operators import ThreadMemory

SECRET = "XK-4471-Q"
WHERE: Any = {"configurable": {"thread_id": "t"}}
INSIDE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "supervise"}}


def supervised(model: Any, saver: Any, more: tuple[str, ...] = ()) -> Any:
    """A graph whose node tells a worker what is not answered yet; `more` is asked in the same run.

    The worker has a memory of its own thread; the counting model stands in the network's place.
    """
    worker: Any = create_agent(model, tools=[], checkpointer=True)

    def supervise(state: MessagesState) -> dict[str, Any]:
        said = state["messages"]
        last = max((at for at, m in enumerate(said) if m.type == "ai"), default=-1)
        task = " and ".join(str(m.text) for m in said[last + 1 :])
        worker.invoke({"messages": [("user", f"task: {task}")]})
        return {"messages": [AIMessage("done")]}

    def ask(state: MessagesState) -> dict[str, Any]:
        asked = [m.text for m in state["messages"] if m.type == "human"]
        return {"messages": [HumanMessage(text) for text in more if text not in asked][:1]}

    def goes_on(state: MessagesState) -> str:
        return "supervise" if state["messages"][-1].type == "human" else END

    builder = StateGraph(MessagesState).add_node("supervise", supervise).add_node("ask", ask)
    builder.add_edge(START, "supervise").add_edge("supervise", "ask")
    builder.add_conditional_edges("ask", goes_on)
    return builder.compile(checkpointer=saver)


def forget(graph: Any, model: Any, text: str, **options: Any) -> Any:
    memory = ThreadMemory(graph, WHERE, model=model)
    return memory.forget(lambda message: text in message.text, **options)


def no_bytes(folder: Path) -> None:
    for part in folder.iterdir():
        assert SECRET.encode() not in part.read_bytes(), part.name


def tasks(saver: Any) -> list[str]:
    held = saver.get_tuple(INSIDE).checkpoint["channel_values"]["messages"]
    return [message.text for message in held if message.type == "human"]


def texts(graph: Any) -> list[str]:
    return [m.text for m in graph.get_state(WHERE).values["messages"] if m.type == "human"]


@pytest.mark.parametrize("durability", ["async", "sync", "exit"])
def test_messages_that_were_answered_together(
    counting: Any, tiny: Any, tmp_path: Path, durability: Any
) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver)
        graph.invoke({"messages": [("user", "first")]}, WHERE, durability=durability)
        together = [("user", f"my badge is {SECRET}"), ("user", "second")]
        graph.invoke({"messages": together}, WHERE, durability=durability)
        graph.invoke({"messages": [("user", "third")]}, WHERE, durability=durability)
        assert tasks(saver)[1] == f"task: my badge is {SECRET} and second"
        held = saver.get_tuple(INSIDE).checkpoint["channel_values"]["messages"]
        report = forget(graph, tiny(), SECRET)
        assert report.purged
        no_bytes(tmp_path)
        assert texts(graph) == ["first", "second", "third"], "only the worker heard it as one"
        assert tasks(saver) == ["task: first", "task: third"]
        assert set(report.inside) == {message.id for message in held[2:4]}, "and it is told"


@pytest.mark.parametrize("durability", ["async", "sync"])
def test_turns_of_one_run_are_told_apart(
    counting: Any, tiny: Any, tmp_path: Path, durability: Any
) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver, ("second", "third"))
        told = {"messages": [("user", f"my badge is {SECRET}")]}
        graph.invoke(told, WHERE, durability=durability)
        report = forget(graph, tiny(), SECRET)
        assert report.purged
        no_bytes(tmp_path)
        assert texts(graph) == ["second", "third"]
        assert tasks(saver) == ["task: second", "task: third"]
        assert len(report.inside) == 2


def test_turns_of_one_run_whose_steps_were_not_stored(
    counting: Any, tiny: Any, tmp_path: Path
) -> None:
    model = tiny()
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver, ("second", "third"))
        told = {"messages": [("user", f"my badge is {SECRET}")]}
        graph.invoke(told, WHERE, durability="exit")
        before, held = graph.get_state(WHERE), tasks(saver)
        assert len(held) == 3
        second = before.values["messages"][2]
        with pytest.raises(ThreadHistoryError, match="durability='exit'") as caught:
            forget(graph, model, SECRET)
        assert second.id in str(caught.value)
        assert (graph.get_state(WHERE), tasks(saver)) == (before, held), "nothing was touched"
        with pytest.raises(ConfigError, match="undecided is"):
            forget(graph, model, SECRET, undecided="maybe")
        report = forget(graph, model, SECRET, undecided="forget")
        assert report.purged
        no_bytes(tmp_path)
        assert texts(graph) == ["second", "third"]
        assert tasks(saver) == []
        assert len(report.inside) == 6, "what went besides is told"


def test_a_whole_run_whose_steps_were_not_stored(counting: Any, tiny: Any, tmp_path: Path) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver, ("second",))
        told = {"messages": [("user", f"my badge is {SECRET}")]}
        graph.invoke(told, WHERE, durability="exit")
        graph.invoke({"messages": [("user", "fourth")]}, WHERE, durability="exit")
        memory = ThreadMemory(graph, WHERE, model=tiny())
        report = memory.forget(lambda message: message.text in (told["messages"][0][1], "second"))
        assert report.purged
        assert len(report.inside) == 4
        no_bytes(tmp_path)
        assert texts(graph) == ["fourth"]
        assert tasks(saver) == ["task: fourth"]


def test_what_was_ingested_is_answered_with_the_next_question(
    counting: Any, tiny: Any, tmp_path: Path
) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = supervised(counting(), saver)
        graph.invoke({"messages": [("user", "first")]}, WHERE)
        ThreadMemory(graph, WHERE, model=tiny()).ingest(f"the badge is {SECRET}")
        graph.invoke({"messages": [("user", "second")]}, WHERE)
        assert SECRET in tasks(saver)[1], "this worker is told all that is not answered"
        report = forget(graph, tiny(), SECRET)
        assert len(report.inside) == 2
        no_bytes(tmp_path)
        assert tasks(saver) == ["task: first"]
        assert texts(graph) == ["first", "second"]
