"""A thread with a fork, facts and turns that have left the window, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Stored:
    """An opened database, the model that wrote to it, and where its threads are."""

    saver: Any
    model: Any
    path: Path
    end: dict[str, Any]


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    from langchain.agents import create_agent

    from deltamem_agents.chat.model import ChatDeltaMem
    from deltamem_agents.checkpoint import SQLAlchemySaver
    from deltamem_agents.graph.middleware import DeltaMemMiddleware
    from deltamem_agents.router import FactStore, HybridRouter
    from deltamem_agents.testing import tiny_engine

    path = tmp_path_factory.mktemp("inspect") / "agent.db"
    model = ChatDeltaMem(model=tiny_engine(context_window=150), max_tokens=4)
    with SQLAlchemySaver(path) as saver:
        router = HybridRouter(FactStore(saver))
        agent = create_agent(
            model, tools=[], middleware=[DeltaMemMiddleware(router=router)], checkpointer=saver
        )
        config = {"configurable": {"thread_id": "nora"}}
        for text in ("My locker code is 4711.", "<script>alert(1)</script>", "My dog is Rex."):
            agent.invoke({"messages": [("user", text)]}, config)
        end = saver.get_tuple(config).config
        for text in ("My locker code is 9382.", "Good night."):
            agent.invoke({"messages": [("user", text)]}, end)
        agent.invoke({"messages": [("user", "Hello.")]}, {"configurable": {"thread_id": "ben"}})
        yield Stored(saver, model, path, end)
