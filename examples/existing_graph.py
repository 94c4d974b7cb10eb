"""Give a graph that you already have a memory: one node changes, its state does not.

Run: python examples/existing_graph.py
"""

from __future__ import annotations

import operator
import tempfile
from pathlib import Path
from typing import Annotated, Any

from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents import ChatDeltaMem, SQLAlchemySaver, memory_node


class State(MessagesState):
    """The graph's own state: nothing in it knows of memories."""

    seen: Annotated[int, operator.add]


def count(state: State) -> dict[str, int]:
    """A node that was there before."""
    return {"seen": 1}


def build(model: Any, saver: Any) -> Any:
    """The graph as it was, but for the line with `memory_node`."""
    builder = StateGraph(State)
    builder.add_node("count", count)
    builder.add_node("chat", memory_node(model, system_prompt="Answer in one sentence."))
    builder.add_edge(START, "count").add_edge("count", "chat")
    return builder.compile(checkpointer=saver)


def main(model: Any | None = None, folder: str | None = None) -> dict[str, Any]:
    """Talk to the graph, close everything, and go on from the same file."""
    model = model or ChatDeltaMem(max_tokens=24)
    url = f"sqlite:///{Path(folder or tempfile.mkdtemp()) / 'existing.db'}"
    where: Any = {"configurable": {"thread_id": "dave"}}
    with SQLAlchemySaver(url) as saver:
        graph = build(model, saver)
        graph.invoke({"messages": [("user", "My name is Dave.")]}, where)
    with SQLAlchemySaver(url) as saver:
        graph = build(model, saver)
        output = graph.invoke({"messages": [("user", "What is my name?")]}, where)
        memory = graph.get_state(where).values.get("delta_memory") or saver.memory_at(
            where, "delta_memory"
        )
    print("keys of the output:", sorted(output))
    print("answer:", output["messages"][-1].text)
    print("memory:", memory)
    return {"output": output, "memory": memory}


if __name__ == "__main__":
    main()
