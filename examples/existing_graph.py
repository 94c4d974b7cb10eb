"""Give a graph that you already have a memory: one node changes, its state does not.

Run: python examples/existing_graph.py
"""

import operator
from tempfile import TemporaryDirectory
from typing import Annotated

from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents import ChatDeltaMem, SQLAlchemySaver, memory_node


class State(MessagesState):
    """The graph's own state: nothing in it knows of memories."""

    turns: Annotated[int, operator.add]


def count(state: State) -> dict[str, int]:
    """A node that was there before."""
    return {"turns": 1}


def build(saver):
    """The graph as it was, but for the line with `memory_node`."""
    builder = StateGraph(State)
    builder.add_node("count", count)
    builder.add_node("chat", memory_node(ChatDeltaMem()))
    builder.add_edge(START, "count").add_edge("count", "chat")
    return builder.compile(checkpointer=saver)


thread = {"configurable": {"thread_id": "dave"}}
with TemporaryDirectory() as folder:
    database = f"sqlite:///{folder}/existing.db"
    with SQLAlchemySaver(database) as saver:
        build(saver).invoke({"messages": [("user", "Remember that my name is Diego.")]}, thread)

    with SQLAlchemySaver(database) as saver:  # everything was closed; the file is what is left
        output = build(saver).invoke({"messages": [("user", "What is my name?")]}, thread)
        memory = saver.memory_at(thread)

print("the graph's output has", sorted(output))
print("turns:", output["turns"])
print("answer:", output["messages"][-1].text)
print("memory:", memory)
