"""A plain LangGraph agent: no δ-mem in it, the checkpointer is all that it takes from here."""

from __future__ import annotations

from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def answer(state: State) -> dict[str, list[AnyMessage]]:
    """Say how much was said, so that it shows that the thread was kept."""
    return {"messages": [AIMessage(f"That is message {len(state['messages'])} of this thread.")]}


builder = StateGraph(State)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile()
