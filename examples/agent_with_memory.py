"""A LangGraph agent with memory in SQLite, and exact facts from the same database.

Run: python examples/agent_with_memory.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from langchain.agents import create_agent

from deltamem_agents import (
    ChatDeltaMem,
    DeltaMemMiddleware,
    FactStore,
    HybridRouter,
    SQLAlchemySaver,
    ThreadMemory,
)


def main() -> dict[str, Any]:
    """Two users on one agent; exact questions are answered from the store, with their source."""
    path = Path(tempfile.mkdtemp()) / "agent.db"
    alice: Any = {"configurable": {"thread_id": "alice"}}
    bob: Any = {"configurable": {"thread_id": "bob"}}
    with SQLAlchemySaver(f"sqlite:///{path}") as saver:
        memory = DeltaMemMiddleware(router=HybridRouter(FactStore(saver)))
        agent = create_agent(
            ChatDeltaMem(max_tokens=32), tools=[], middleware=[memory], checkpointer=saver
        )

        def say(text: str, who: Any) -> Any:
            reply = agent.invoke({"messages": [("user", text)]}, who)["messages"][-1]
            print(f"{who['configurable']['thread_id']:<6} {text}\n       -> {reply.text}")
            return reply

        say("I can tell you that my locker code is 48213.", alice)
        say("I can tell you that my locker code is 977.", bob)
        exact = say("Could you look up my locker code?", alice)
        citations = exact.response_metadata["citations"]
        print("       source:", citations)

        forgotten = ThreadMemory(agent, alice).forget(lambda m: "48213" in str(m.text))
        print(f"forgotten: {len(forgotten.message_ids)} messages, {len(forgotten.facts)} facts")
        after = say("Could you look up my locker code?", alice)
        other = say("Could you look up my locker code?", bob)
    return {"exact": exact.text, "citations": citations, "after": after.text, "bob": other.text}


if __name__ == "__main__":
    main()
