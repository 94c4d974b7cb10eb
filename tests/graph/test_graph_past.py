"""What forgetting sees of a thread: branches stay apart."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents.graph.past import load_past
from deltamem_agents.graph.saved import messages_in
from deltamem_agents.graph.steps import run
from deltamem_agents.graph.thread import Thread

WHERE: Any = {"configurable": {"thread_id": "t"}}


class WholeSaver(BaseCheckpointSaver):
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
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"messages": [("user", "a")]}, WHERE)
    fork = graph.get_state(WHERE).config
    graph.invoke({"messages": [("user", "b")]}, WHERE)
    graph.invoke({"messages": [("user", "c")]}, fork)

    def texts(past: Any) -> list[list[str]]:
        return [[message.text for message in messages_in(one)] for one in past]

    seen = texts(run(load_past(Thread.of(graph, WHERE))))
    assert ["a", "re a", "b", "re b"] in seen
    assert ["a", "re a", "c", "re c"] in seen
    assert seen == texts(reversed(list(saver.list(None))))
