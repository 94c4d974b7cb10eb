"""What forgetting sees of a thread: branches stay apart, and workers have a turn."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.past import Past, load_past
from deltamem_agents.graph.saved import id_of, messages_in, namespace_of
from deltamem_agents.graph.steps import run
from deltamem_agents.graph.thread import Thread

WHERE: Any = {"configurable": {"thread_id": "t"}}


class WholeSaver(BaseCheckpointSaver[Any]):
    """Keeps whole checkpoints with the base class's versions, which are whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[CheckpointTuple] = []

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        parent = config if config["configurable"].get("checkpoint_id") else None
        place = {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": checkpoint["id"]}
        new: Any = {"configurable": place}
        self.rows.append(CheckpointTuple(new, copy.deepcopy(checkpoint), metadata, parent, []))
        return new

    def put_writes(self, *arguments: Any, **options: Any) -> None:
        pass

    def list(self, config: Any, **options: Any) -> Iterator[CheckpointTuple]:
        return iter(sorted(self.rows, key=lambda one: one.checkpoint["id"], reverse=True))

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        name = config["configurable"].get("checkpoint_id")
        found = (one for one in self.list(None) if not name or one.checkpoint["id"] == name)
        return next(found, None)


def test_branches_with_the_same_version_numbers_stay_apart() -> None:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"re {state['messages'][-1].text}")]}

    saver = WholeSaver()
    builder = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")
    graph: Any = builder.compile(checkpointer=saver)
    graph.invoke({"messages": [("user", "a")]}, WHERE)
    fork = graph.get_state(WHERE).config
    graph.invoke({"messages": [("user", "b")]}, WHERE)
    graph.invoke({"messages": [("user", "c")]}, fork)

    def texts(past: Any) -> list[list[str]]:
        return [[message.text for message in messages_in(one)] for one in past]

    seen = texts(run(load_past(Thread.of(graph, WHERE))).saved)
    assert ["a", "re a", "b", "re b"] in seen
    assert ["a", "re a", "c", "re c"] in seen
    assert seen == texts(reversed(list(saver.list(None))))


def supervised(model: Any, saver: Any) -> Any:
    """A graph whose node tells a worker of its own what the user said."""
    worker: Any = create_agent(model, tools=[], checkpointer=True)

    def supervise(state: MessagesState) -> dict[str, Any]:
        worker.invoke({"messages": [("user", f"task: {state['messages'][-1].text}")]})
        return {"messages": [AIMessage("done")]}

    builder = StateGraph(MessagesState).add_node("supervise", supervise)
    builder.add_node("chat", memory_node(model))
    builder.add_edge(START, "supervise").add_edge("supervise", "chat")
    return builder.compile(checkpointer=saver)


def _past(graph: Any, chosen: str) -> Past:
    past = run(load_past(Thread.of(graph, WHERE)))
    past.choose(lambda message: message.text == chosen)
    return past


def test_a_run_whose_beginning_was_never_stored_is_known_by_its_end(
    counting: Any, file_saver: SQLAlchemySaver
) -> None:
    graph = supervised(counting(), file_saver)
    for text in ("a", "b", "c"):
        graph.invoke({"messages": [("user", text)]}, WHERE, durability="exit")
    for number, text in enumerate("abc"):
        past = _past(graph, text)
        told = [past.derived(one) for one in past.saved if namespace_of(one)]
        assert told == [place == number for place in range(3)]
        assert not past.undecided


def test_a_run_that_nothing_tells_of_is_undecided_and_not_called_purged(
    tiny: Any, file_saver: SQLAlchemySaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = supervised(tiny(), file_saver)
    for text in ("a", "b", "c"):
        graph.invoke({"messages": [("user", text)]}, WHERE, durability="exit")
    past = _past(graph, "b")
    first, second, third = past.own()
    past.saved.remove(second)
    assert past.undecided, "the end of the second run is missing"
    past = _past(graph, "b")
    past.saved = [one for one in past.saved if id_of(one) != id_of(third)]
    assert past.undecided, "the third has no end"
    past = _past(graph, "c")
    past.saved = [one for one in past.saved if id_of(one) != id_of(first)]
    assert not past.undecided, "what was pruned held nothing forgotten"
    monkeypatch.setattr(Past, "undecided", True)
    assert not ThreadMemory(graph, WHERE).forget(lambda message: message.text == "b").purged
