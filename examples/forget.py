"""Forget exactly: afterwards the memory is that of a thread that was never told.

Run: python examples/forget.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from langchain.agents import create_agent

from deltamem_agents import (
    ChatDeltaMem,
    DeltaMemMiddleware,
    FactStore,
    HybridRouter,
    SQLAlchemySaver,
    ThreadMemory,
)

SECRET = "4471-XK"


def main(model: Any | None = None, folder: str | None = None) -> dict[str, Any]:
    """Tell a thread a code, make it forget it, and look for what is left."""
    model = model or ChatDeltaMem(max_tokens=24)
    path = Path(folder or tempfile.mkdtemp()) / "forget.db"
    told: Any = {"configurable": {"thread_id": "told"}}
    never: Any = {"configurable": {"thread_id": "never told"}}
    with SQLAlchemySaver(f"sqlite:///{path}") as saver:
        router = HybridRouter(FactStore(saver))
        agent = create_agent(
            model, tools=[], middleware=[DeltaMemMiddleware(router=router)], checkpointer=saver
        )
        for text in ("Hello, I am Bob.", f"My locker code is {SECRET}.", "I like tea."):
            agent.invoke({"messages": [("user", text)]}, told)
        memory = ThreadMemory(agent, told)
        print("before:", memory.retrieve("What is my locker code?").answer)

        report = memory.forget(lambda message: SECRET in message.text)
        print(f"gone: {len(report.message_ids)} messages, {len(report.facts)} facts, "
              f"{report.checkpoints} checkpoints rewritten")  # fmt: skip
        found = memory.retrieve("What is my locker code?")
        print("after:", found.route, found.answer)

        # A thread that hears just what is left arrives at the same memory.
        ThreadMemory(agent, never).ingest(agent.get_state(told).values["messages"])
        one, other = memory.memory(), ThreadMemory(agent, never).memory()
        assert one is not None
        assert other is not None
        distance = float(np.abs(one.state - other.state).max())
        print(f"largest difference from a thread that was never told: {distance:.1e}")
    left = [part.name for part in path.parent.iterdir() if SECRET.encode() in part.read_bytes()]
    print("files that still hold the code:", left or "none")
    return {"report": report, "found": found, "distance": distance, "left": left}


if __name__ == "__main__":
    main()
