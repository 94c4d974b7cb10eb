"""A supervisor with workers: each worker is an agent with a memory of its own.

The supervisor sends a message to the worker in charge. What one worker was told, the other does not
know: the memories are as separate as the agents.

Run: python examples/supervisor.py
"""

from tempfile import TemporaryDirectory

from langchain.agents import create_agent
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import Command

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver

model = ChatDeltaMem()


def worker(name):
    """A node that hands the last message to an agent, which has the rest in its own state."""
    agent = create_agent(
        model,
        tools=[],
        middleware=[DeltaMemMiddleware()],
        checkpointer=True,  # messages and memory of its own, kept within the thread
        name=name,
    )

    def work(state: MessagesState):
        return {"messages": agent.invoke({"messages": state["messages"][-1:]})["messages"][-1:]}

    return work


def supervise(state: MessagesState):
    """Choose a worker. With a larger model: `model.with_structured_output(Choice).invoke(...)`."""
    about_services = "service" in state["messages"][-1].text
    return Command(goto="operations" if about_services else "people")


builder = StateGraph(MessagesState)
builder.add_node("supervisor", supervise, destinations=("people", "operations"))
for name in ("people", "operations"):
    builder.add_node(name, worker(name))
builder.set_entry_point("supervisor")

thread = {"configurable": {"thread_id": "office"}}
with TemporaryDirectory() as folder, SQLAlchemySaver(f"sqlite:///{folder}/office.db") as saver:
    graph = builder.compile(checkpointer=saver)
    for text in (
        "Remember that my boss's home city is Lisbon.",
        "Remember that the billing service's language is kotlin.",
        "What is my boss's home city?",
        "What is the billing service's language?",
    ):
        for update in graph.stream({"messages": [("user", text)]}, thread, stream_mode="updates"):
            for name, change in update.items():
                if change:
                    print(f"{text:<57}{name:<12}{change['messages'][-1].text}")

    for name in ("people", "operations"):  # a worker's state is stored under the worker's name
        where = {"configurable": {"thread_id": "office", "checkpoint_ns": name}}
        print(f"{name:<12}{saver.memory_at(where)}")
