"""An agent with tools: the model calls one, its result goes back, the model answers.

Decoding follows the tools' schemas, so that even the small built-in model makes a valid call; but
it has only learnt tools of one parameter, and neither when to call such a one, with which values,
nor what to say of a result. Here it is told to call; a larger model decides. What to look at is the
order of things, not the words.

Run: python examples/agent_with_tools.py
"""

from tempfile import TemporaryDirectory
from typing import Literal

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import HumanMessage

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver


def switch_lamp(room: Literal["kitchen", "bedroom"], on: bool) -> str:
    """Switch a lamp on or off."""
    return f"The lamp in the {room} is {'on' if on else 'off'}."


@wrap_model_call
def call_a_tool_first(request, handler):
    """Leave this out with a model that can choose."""
    asked = isinstance(request.messages[-1], HumanMessage)
    return handler(request.override(tool_choice="any" if asked else "none"))


thread = {"configurable": {"thread_id": "home"}}
with TemporaryDirectory() as folder, SQLAlchemySaver(f"sqlite:///{folder}/home.db") as saver:
    agent = create_agent(
        ChatDeltaMem(max_tokens=48),
        tools=[switch_lamp],
        middleware=[call_a_tool_first, DeltaMemMiddleware()],
        checkpointer=saver,
    )
    question = {"messages": [("user", "Please switch the lamp in the kitchen on.")]}
    for message in agent.invoke(question, thread)["messages"]:
        for call in getattr(message, "tool_calls", []):
            print(f"{message.type:<6}calls {call['name']} with {call['args']}")
        if message.text:
            print(f"{message.type:<6}{message.text}")

    # Question, call, result and answer are one turn: all of it is written to the memory, and they
    # leave the window together.
    print("memory:", saver.memory_at(thread))
