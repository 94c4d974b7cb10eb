"""Fork a conversation: each branch has the memory of its own past.

Run: python examples/fork.py
"""

from tempfile import TemporaryDirectory

from langchain.agents import create_agent

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver

thread = {"configurable": {"thread_id": "alice"}}
with TemporaryDirectory() as folder, SQLAlchemySaver(f"sqlite:///{folder}/fork.db") as saver:
    agent = create_agent(
        ChatDeltaMem(), tools=[], middleware=[DeltaMemMiddleware()], checkpointer=saver
    )

    def say(text, where):
        """Go on from a checkpoint; returns the reply and the checkpoint after it."""
        reply = agent.invoke({"messages": [("user", text)]}, where)["messages"][-1]
        return reply.text, agent.get_state(thread).config

    _, fork = say("Remember that my sister's instrument is cello.", thread)
    _, trunk = say("Remember that my brother's hobby is hiking.", fork)
    _, branch = say("Remember that my brother's hobby is chess.", fork)  # from the same checkpoint

    for name, end in (("trunk", trunk), ("branch", branch)):
        for question in ("What is my brother's hobby?", "What is my sister's instrument?"):
            print(f"{name:<7}{question:<33}{say(question, end)[0]}")

    one, other = saver.memory_at(trunk), saver.memory_at(branch)
    print(f"the two memories are {one.diff(other).norm:.1f} apart (norm {one.norm:.1f})")
