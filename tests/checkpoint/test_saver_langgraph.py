"""Plain LangGraph agents, with no δ-mem in them, work; `langgraph.json` finds the saver."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from deltamem_agents.checkpoint import SQLAlchemySaver
from tests.checkpoint.helpers import config, memory

EXAMPLE = Path(__file__).parents[2] / "examples" / "langgraph_json"


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    memory: Any


def _count(state: State) -> dict[str, Any]:
    return {"messages": [AIMessage(str(len(state["messages"])))]}


def _graph(saver: Any) -> Any:
    child = StateGraph(State)
    child.add_node("count", _count)
    child.add_edge(START, "count")
    parent = StateGraph(State)
    parent.add_node("child", child.compile())
    parent.add_node("remember", lambda state: {"memory": memory(len(state["messages"]))})
    parent.add_edge(START, "child")
    parent.add_edge("child", "remember")
    parent.add_edge("remember", END)
    return parent.compile(checkpointer=saver)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_graph_with_a_subgraph_and_a_memory(url: str, durability: Any) -> None:
    with SQLAlchemySaver(url) as saver:
        graph = _graph(saver)
        for turn in range(3):
            said = {"messages": [HumanMessage(f"turn {turn}")]}
            graph.invoke(said, config(), durability=durability)
        state = graph.get_state(config())
        assert [message.content for message in state.values["messages"]] == [
            "turn 0",
            "1",
            "turn 1",
            "3",
            "turn 2",
            "5",
        ]
        assert state.values["memory"] == memory(6)
        course = saver.memories("t")
        assert course[-1].adapter == memory().fingerprint
        assert saver.memory_at(config()) == memory(6)
    with SQLAlchemySaver(url) as saver:  # another process, as far as the saver knows
        graph = _graph(saver)
        past = [
            entry
            for entry in graph.get_state_history(config())
            if not entry.next and len(entry.values["messages"]) == 2
        ]
        assert past[0].values["memory"] == memory(2)
        graph.invoke({"messages": [HumanMessage("fork")]}, past[0].config)
        assert graph.get_state(config()).values["memory"] == memory(4)


async def test_an_async_graph(url: str) -> None:
    async with SQLAlchemySaver(url) as saver:
        graph = _graph(saver)
        for turn in range(2):
            await graph.ainvoke({"messages": [HumanMessage(f"turn {turn}")]}, config())
        state = await graph.aget_state(config())
        assert state.values["memory"] == memory(4)
        parts = [
            part
            async for part in graph.astream(
                {"messages": [HumanMessage("streamed")]}, config(), stream_mode="values"
            )
        ]
        assert parts[-1]["memory"] == memory(6)
        histories = await asyncio.gather(*(_history(graph, thread) for thread in ("t", "other")))
        assert histories[0] == 12
        assert histories[1] == 0


async def _history(graph: Any, thread: str) -> int:
    return len([entry async for entry in graph.aget_state_history(config(thread))])


def test_a_plain_agent(tmp_path: Path) -> None:
    with SQLAlchemySaver(tmp_path / "a.db") as saver:
        model = GenericFakeChatModel(messages=iter([AIMessage("one"), AIMessage("two")]))
        agent = create_agent(model, tools=[], checkpointer=saver)
        agent.invoke({"messages": [("user", "first")]}, config())
        answer = agent.invoke({"messages": [("user", "second")]}, config())
        assert [message.content for message in answer["messages"]] == [
            "first",
            "one",
            "second",
            "two",
        ]
        assert saver.stats().memories == 0


@pytest.fixture
def example() -> Iterator[Any]:
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield json.loads((EXAMPLE / "langgraph.json").read_text())
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("agent", "checkpointer"):
            sys.modules.pop(name, None)


async def test_the_checkpointer_that_langgraph_json_names(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `langgraph dev` does it: import the names, enter the context, put the saver in."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/a.db")
    module, name = example["checkpointer"]["path"].removeprefix("./").split(".py:")
    create = getattr(importlib.import_module(module), name)
    module, name = example["graphs"]["agent"].removeprefix("./").split(".py:")
    graph = getattr(importlib.import_module(module), name)
    for turn in (1, 3):
        async with create() as saver:
            served = graph.copy(update={"checkpointer": saver})
            answer = await served.ainvoke({"messages": [("user", "hello")]}, config())
            assert answer["messages"][-1].content == f"That is message {turn} of this thread."
