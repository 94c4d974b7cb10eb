"""A long conversation, stopped and gone on with by another process at any point."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.graph.nodes import memory_node

WHERE: Any = {"configurable": {"thread_id": "t"}}


def chat(model: Any, saver: Any) -> Any:
    builder = StateGraph(MessagesState).add_node("chat", memory_node(model))
    return builder.add_edge(START, "chat").compile(checkpointer=saver)


def say(graph: Any, text: str, where: Any = WHERE) -> str:
    return str(graph.invoke({"messages": [("user", text)]}, where)["messages"][-1].text)


def resumed(tiny: Any, saver: Any, turns: int, every: int) -> None:
    live, cold = tiny(max_tokens=3), tiny(max_tokens=3, live_bytes=0)
    steady, stopping = chat(live, InMemorySaver()), chat(cold, saver)
    kept = chat(live, saver)
    for turn in range(turns):
        text = f"fact {turn}: {turn * 37 % 101}"
        graph = stopping if turn % every == every - 1 else kept
        assert say(graph, text) == say(steady, text), f"turn {turn}"
    one, other = (graph.get_state(WHERE).values["delta_memory"] for graph in (kept, steady))
    assert one.ledger == other.ledger
    assert one.ledger.evicted_count > turns
    np.testing.assert_allclose(one.state, other.state, atol=1e-5, rtol=0)
    messages = kept.get_state(WHERE).values["messages"]
    assert len(messages) == 2 * turns
    fresh = live.engine.read(None, [to_dict(message) for message in messages])
    np.testing.assert_allclose(one.state, fresh.state, atol=1e-5, rtol=0)
    assert one.nbytes == 2 * 4 * np.prod(one.state.shape), "the memory does not grow"


def test_a_long_conversation_resumes_anywhere(tiny: Any, file_saver: Any) -> None:
    resumed(tiny, file_saver, turns=40, every=3)


@pytest.mark.long
def test_five_hundred_turns_resume_anywhere(tiny: Any, file_saver: Any) -> None:
    resumed(tiny, file_saver, turns=500, every=3)


def test_a_long_rebuild_shows_its_progress(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from langchain_core.messages import HumanMessage

    from deltamem_agents.graph import reader

    monkeypatch.setattr(reader, "BAR_AFTER_SECONDS", 0.0)
    ticks = iter(float(second) for second in range(10**6))
    monkeypatch.setattr(reader, "time", type("Clock", (), {"monotonic": lambda: next(ticks)}))
    shown: list[int] = []
    monkeypatch.setattr(reader.Bar, "at", _noting(shown, reader.Bar.at))
    model = tiny(max_tokens=2, context_window=900, low_water=800)
    graph = chat(model, InMemorySaver())
    graph.update_state(
        WHERE, {"messages": [HumanMessage(f"{n}", id=f"m{n}") for n in range(30)]}, as_node="chat"
    )
    say(graph, "first")
    graph.update_state(WHERE, {"messages": [HumanMessage("edited", id="m3")]}, as_node="chat")
    assert not shown
    say(graph, "second")
    assert shown == [8, 16, 24, 31]
    values = graph.get_state(WHERE).values
    fresh = model.engine.read(None, [to_dict(message) for message in values["messages"]])
    assert values["delta_memory"].ledger == fresh.ledger
    np.testing.assert_allclose(values["delta_memory"].state, fresh.state, atol=1e-5, rtol=0)
    assert time.monotonic() > 0
    del capsys


def _noting(shown: list[int], at: Any) -> Any:
    def noting(bar: Any, done: int) -> None:
        shown.append(done)
        at(bar, done)

    return noting
