"""Forget exactly: afterwards the memory is that of a thread that was never told.

Run: python examples/forget.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

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
told = {"configurable": {"thread_id": "told"}}
never = {"configurable": {"thread_id": "never told"}}

with TemporaryDirectory() as folder:
    with SQLAlchemySaver(f"sqlite:///{folder}/forget.db") as saver:
        middleware = DeltaMemMiddleware(router=HybridRouter(FactStore(saver)))
        agent = create_agent(ChatDeltaMem(), tools=[], middleware=[middleware], checkpointer=saver)
        for text in (
            "Remember that my name is Bruno.",
            f"Remember that my locker code is {SECRET}.",
            "Remember that my favourite drink is tea.",
        ):
            agent.invoke({"messages": [("user", text)]}, told)

        memory = ThreadMemory(agent, told)
        print("before:", memory.retrieve("What is my locker code?").answer)

        gone = memory.forget(lambda message: SECRET in message.text)
        print(f"gone: {len(gone.message_ids)} messages and {len(gone.facts)} fact, "
              f"from {gone.checkpoints} checkpoints")  # fmt: skip
        print("after: ", memory.retrieve("What is my locker code?").answer)

        # A thread that hears just what is left arrives at the same memory.
        other = ThreadMemory(agent, never)
        other.ingest(agent.get_state(told).values["messages"])
        difference = np.abs(memory.memory().state - other.memory().state).max()
        print(f"largest difference from a thread that was never told: {difference:.1e}")

    holding = [f.name for f in Path(folder).iterdir() if SECRET.encode() in f.read_bytes()]
    print("files that still hold the code:", holding or "none")
