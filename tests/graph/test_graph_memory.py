"""The real model, tiny and untrained: what a thread's memory is after a conversation."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node

WHERE: Any = {"configurable": {"thread_id": "t"}}


def agent(model: Any, saver: Any = None, **options: Any) -> Any:
    return create_agent(
        model,
        tools=[],
        system_prompt="Be brief.",
        middleware=[DeltaMemMiddleware(**options)],
        checkpointer=saver or InMemorySaver(),
    )


def say(graph: Any, text: str, where: Any = WHERE) -> str:
    return str(graph.invoke({"messages": [("user", text)]}, where)["messages"][-1].text)


def values(graph: Any, where: Any = WHERE) -> dict[str, Any]:
    return graph.get_state(where).values


def close(one: MemoryState, other: MemoryState) -> None:
    assert one.ledger == other.ledger
    assert one.tokens_written == other.tokens_written
    np.testing.assert_allclose(one.state, other.state, atol=1e-5, rtol=0)
    np.testing.assert_allclose(one.boundary_state, other.boundary_state, atol=1e-5, rtol=0)


def replayed(model: Any, messages: Any) -> MemoryState:
    """The oracle: a fresh reading of these messages."""
    system = {"role": "system", "content": "Be brief."}
    return model.engine.read(None, [system, *map(to_dict, messages)])


def test_a_thread_is_its_messages_read_once(tiny: Any) -> None:
    model = tiny()
    graph = agent(model)
    for turn in range(8):
        say(graph, f"fact {turn}: the code is {turn * 7}")
    now = values(graph)
    assert now["delta_memory"].ledger.evicted_count > 6, "turns have left the window"
    close(now["delta_memory"], replayed(model, now["messages"]))


def test_a_cold_process_goes_on_as_the_live_one(tiny: Any, file_saver: Any) -> None:
    live, cold = tiny(), tiny(live_bytes=0)
    first, second = agent(live, file_saver), agent(cold, file_saver)
    told = [f"fact {turn}: {turn * 13}" for turn in range(6)]
    for text in told:
        say(first, text, {"configurable": {"thread_id": "live"}})
    replies = []
    for turn, text in enumerate(told):
        replies.append(say((first, second)[turn % 2], text))
    lived = values(first, {"configurable": {"thread_id": "live"}})
    assert replies == [str(message.text) for message in lived["messages"] if message.type == "ai"]
    close(values(second)["delta_memory"], lived["delta_memory"])


def test_an_edit_rebuilds_to_what_a_fresh_thread_would_be(tiny: Any) -> None:
    model = tiny()
    graph = agent(model)
    for turn in range(7):
        say(graph, f"fact {turn}: the code is {turn * 7}")
    said = values(graph)["messages"]
    graph.update_state(WHERE, {"messages": [HumanMessage("edited", id=said[-2].id)]})
    say(graph, "and now?")
    now = values(graph)
    assert now["messages"][-4].text == "edited"
    close(now["delta_memory"], replayed(model, now["messages"]))


def test_a_hand_written_graph_has_the_same_memory(tiny: Any) -> None:
    model = tiny()
    node = memory_node(model, system_prompt="Be brief.")
    builder = StateGraph(MessagesState).add_node("chat", node).add_edge(START, "chat")
    graph = builder.compile(checkpointer=InMemorySaver())
    other = agent(model)
    for turn in range(5):
        assert say(graph, f"turn {turn} and more") == say(other, f"turn {turn} and more")
    close(values(graph)["delta_memory"], values(other)["delta_memory"])
    gc.collect()


@pytest.mark.parametrize("stream_mode", ["values", "updates", "messages"])
async def test_streams_and_async(tiny: Any, stream_mode: str) -> None:
    model = tiny()
    graph = agent(model)
    for text in ("one", "two"):
        parts = [
            part
            async for part in graph.astream(
                {"messages": [("user", text)]}, WHERE, stream_mode=stream_mode
            )
        ]
        assert parts
    now = (await graph.aget_state(WHERE)).values
    close(now["delta_memory"], replayed(model, now["messages"]))
