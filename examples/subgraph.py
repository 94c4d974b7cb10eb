"""Agents in a graph: memories of their own by default, one memory when asked for.

Run: python examples/subgraph.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from langchain.agents import AgentState, create_agent
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, MemoryState, SQLAlchemySaver
from deltamem_agents.graph.channel import MemoryChannel


class SharedState(AgentState[Any]):
    """A parent's state with the memory that its agents share."""

    delta_memory: Annotated[MemoryState | None, MemoryChannel()]


def main(model: Any | None = None, folder: str | None = None) -> dict[str, Any]:
    """Run two agents one after another, apart and with one memory."""
    model = model or ChatDeltaMem(max_tokens=24)
    path = Path(folder or tempfile.mkdtemp()) / "subgraph.db"
    with SQLAlchemySaver(f"sqlite:///{path}") as saver:
        apart = _chain(MessagesState, model, saver, keep=True)
        together = _chain(SharedState, model, saver, shared=True)
        for graph, thread in ((apart, "apart"), (together, "together")):
            where: Any = {"configurable": {"thread_id": thread}}
            for text in ("I am Carol and I plant roses.", "And tulips."):
                graph.invoke({"messages": [("user", text)]}, where)
        own = {
            name: saver.memory_at(_inside("apart", name), "delta_memory")
            for name in ("planner", "writer")
        }
        shared = saver.memory_at(_inside("together", ""), "delta_memory")
    for name, memory in own.items():
        print(f"{name:<9}{memory!r}")
    print(f"shared   {shared!r}")
    return {"own": own, "shared": shared}


def _chain(schema: Any, model: Any, saver: Any, *, keep: bool = False, shared: bool = False) -> Any:
    builder = StateGraph(schema)
    for name in ("planner", "writer"):
        agent = create_agent(
            model,
            tools=[],
            system_prompt=f"You are the {name}.",
            middleware=[DeltaMemMiddleware(shared=shared)],
            checkpointer=keep or None,  # True: the agent keeps its own state between calls
            name=name,
        )
        builder.add_node(name, agent)
    builder.add_edge(START, "planner").add_edge("planner", "writer")
    return builder.compile(checkpointer=saver)


def _inside(thread: str, namespace: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}


if __name__ == "__main__":
    main()
