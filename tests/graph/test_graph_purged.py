"""Forgetting does not say that the bytes are gone while the exact store's file still has them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent

from deltamem_agents.checkpoint import SQLAlchemySaver, engines
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.router import FactStore, HybridRouter

WHERE: Any = {"configurable": {"thread_id": "t"}}


@pytest.mark.parametrize("held", [True, False], ids=["read", "free"])
def test_a_facts_database_that_is_read_is_not_said_to_be_purged(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    monkeypatch.setattr(engines.truncate_log, "__defaults__", (0.2,))
    path = tmp_path / "facts.db"
    with SQLAlchemySaver(tmp_path / "agent.db") as saver, SQLAlchemySaver(path) as apart:
        middleware = DeltaMemMiddleware(router=HybridRouter(FactStore(apart)))
        graph: Any = create_agent(tiny(), middleware=[middleware], checkpointer=saver)
        said = graph.invoke({"messages": [("user", "my badge is XK-4471-Q")]}, WHERE)["messages"]
        other = sqlite3.connect(path, isolation_level=None)
        if held:
            other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM facts").fetchone()[0] > 0
        report = ThreadMemory(graph, WHERE).forget(said[0].id)
        other.close()
        assert report.facts
        assert report.purged is not held


def test_the_same_call_after_pruning_says_what_can_be_left_to_do(tiny: Any, tmp_path: Path) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        middleware = [DeltaMemMiddleware()]
        graph: Any = create_agent(tiny(), middleware=middleware, checkpointer=saver)
        said = graph.invoke({"messages": [("user", "my badge is XK-4471-Q")]}, WHERE)["messages"]
        graph.invoke({"messages": [("user", "two")]}, WHERE)
        thread = ThreadMemory(graph, WHERE)
        thread.forget(said[0].id)
        assert thread.forget(said[0].id).message_ids == ()
        graph.invoke({"messages": [("user", "three")]}, WHERE)
        saver.retain("t", keep_last=1)
        with pytest.raises(ThreadHistoryError, match=r"pruned since.* saver's purge\(\)"):
            thread.forget(said[0].id)
        assert saver.purge()
