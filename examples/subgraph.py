"""Agents in a graph: memories of their own by default, one memory when asked for.

Run: python examples/subgraph.py
"""

from tempfile import TemporaryDirectory
from typing import Annotated

from langchain.agents import AgentState, create_agent
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, MemoryState, SQLAlchemySaver
from deltamem_agents.graph.channel import MemoryChannel

model = ChatDeltaMem(max_tokens=24)


class SharedState(AgentState):
    """A parent's state with the memory that its agents share."""

    delta_memory: Annotated[MemoryState | None, MemoryChannel()]


def chain(schema, saver, *, shared):
    """A planner, then a writer."""
    builder = StateGraph(schema)
    for name in ("planner", "writer"):
        agent = create_agent(
            model,
            tools=[],
            system_prompt=f"You are the {name}.",
            middleware=[DeltaMemMiddleware(shared=shared)],
            checkpointer=None if shared else True,  # True: a state of its own between calls
            name=name,
        )
        builder.add_node(name, agent)
    builder.add_edge(START, "planner").add_edge("planner", "writer")
    return builder.compile(checkpointer=saver)


def memory_of(thread, agent=""):
    """The memory of an agent of a thread; "" for the graph itself."""
    return saver.memory_at({"configurable": {"thread_id": thread, "checkpoint_ns": agent}})


with TemporaryDirectory() as folder, SQLAlchemySaver(f"sqlite:///{folder}/subgraph.db") as saver:
    apart = chain(MessagesState, saver, shared=False)
    together = chain(SharedState, saver, shared=True)
    for graph, thread in ((apart, "apart"), (together, "together")):
        for text in ("Remember that my name is Carla.", "Remember that my job is florist."):
            graph.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": thread}})
    print("Each agent with a memory of its own. The planner has not read the writer's last reply")
    print("yet: it comes with the next message.")
    print("  planner ", memory_of("apart", "planner"))
    print("  writer  ", memory_of("apart", "writer"))
    print("One memory for both. It has read each message once, whoever was at work:")
    print("  together", memory_of("together"))
