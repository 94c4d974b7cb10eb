"""Fork a conversation: each branch has the memory of its own past.

Run: python examples/fork.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from langchain.agents import create_agent

from deltamem_agents import ChatDeltaMem, DeltaMemMiddleware, SQLAlchemySaver


def main(model: Any | None = None, folder: str | None = None) -> dict[str, Any]:
    """Tell a thread something, fork it, and tell each branch another thing."""
    model = model or ChatDeltaMem(max_tokens=24)
    path = Path(folder or tempfile.mkdtemp()) / "fork.db"
    where: Any = {"configurable": {"thread_id": "alice"}}
    with SQLAlchemySaver(f"sqlite:///{path}") as saver:
        agent = create_agent(model, tools=[], middleware=[DeltaMemMiddleware()], checkpointer=saver)

        def say(text: str, at: Any) -> str:
            return str(agent.invoke({"messages": [("user", text)]}, at)["messages"][-1].text)

        say("Hello, my name is Alice.", where)
        fork = agent.get_state(where).config

        say("My dog is called Rex.", where)
        trunk = agent.get_state(where).config
        say("My cat is called Tom.", fork)  # the same thread, from an earlier checkpoint
        branch = agent.get_state(where).config

        memories = {
            name: agent.get_state(at).values["delta_memory"]
            for name, at in (("fork", fork), ("trunk", trunk), ("branch", branch))
        }
        answers = {
            name: say("What is my dog called?", at)
            for name, at in (("trunk", trunk), ("branch", branch))
        }
    for name, memory in memories.items():
        print(f"{name:<7}{memory!r}")
    for name, answer in answers.items():
        print(f"{name:<7}What is my dog called? {answer}")
    distance = memories["trunk"].diff(memories["branch"]).norm
    print(f"the branches' memories are {distance:.3f} apart")
    return {"memories": memories, "answers": answers, "distance": distance}


if __name__ == "__main__":
    main()
