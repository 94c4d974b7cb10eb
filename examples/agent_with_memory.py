"""An agent with memory in SQLite, and exact facts with their source from the same database.

Run: python examples/agent_with_memory.py
"""

from tempfile import TemporaryDirectory

from langchain.agents import create_agent

from deltamem_agents import (
    ChatDeltaMem,
    DeltaMemMiddleware,
    FactStore,
    HybridRouter,
    SQLAlchemySaver,
)

alice = {"configurable": {"thread_id": "alice"}}
bob = {"configurable": {"thread_id": "bob"}}

with TemporaryDirectory() as folder, SQLAlchemySaver(f"sqlite:///{folder}/agent.db") as saver:
    memory = DeltaMemMiddleware(router=HybridRouter(FactStore(saver)))
    agent = create_agent(ChatDeltaMem(), tools=[], middleware=[memory], checkpointer=saver)

    def say(text, thread):
        reply = agent.invoke({"messages": [("user", text)]}, thread)["messages"][-1]
        print(f"{thread['configurable']['thread_id']:<6}{text}\n      -> {reply.text}")
        for source in reply.response_metadata.get("citations", []):
            print(f"         {source['value']}: said by the {source['asserted_by']}, "
                  f"characters {source['span'][0]} to {source['span'][1]}")  # fmt: skip

    say("Remember that my locker code is 48213.", alice)
    say("Remember that my locker code is 60217.", bob)
    say("What is my locker code?", alice)
    say("What is my locker code?", bob)
