"""An agent with tools: the model calls one, its result goes back, the model answers.

Nobody tells the small built-in model to call: it has learnt tools of one parameter, asked for in
plain words, and repeats their results. Decoding follows the tools' schemas, so that its calls are
valid whatever they hold. For tools of more parameters, or chains of them, take a larger model.

Run: python examples/agent_with_tools.py
"""

from tempfile import TemporaryDirectory

from langchain.agents import create_agent

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver


def get_weather(city: str) -> str:
    """Weather of a city."""
    return {"Vienna": "21 degrees and sunny"}.get(city, "nothing is known")


thread = {"configurable": {"thread_id": "home"}}
with TemporaryDirectory() as folder, SQLAlchemySaver(f"sqlite:///{folder}/home.db") as saver:
    agent = create_agent(
        ChatDeltaMem(max_tokens=48),
        tools=[get_weather],
        middleware=[DeltaMemMiddleware()],
        checkpointer=saver,
    )
    question = {"messages": [("user", "What is the weather in Vienna?")]}
    for message in agent.invoke(question, thread)["messages"]:
        for call in getattr(message, "tool_calls", []):
            print(f"{message.type:<6}calls {call['name']} with {call['args']}")
        if message.text:
            print(f"{message.type:<6}{message.text}")

    # Question, call, result and answer are one turn: all of it is written to the memory, and they
    # leave the window together.
    print("memory:", saver.memory_at(thread))
