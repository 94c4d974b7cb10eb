"""Plumbing only: the counting model of conftest.py stands in the network's place."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import DivergenceError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node


def config(thread: str = "t") -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


def agent(model: Any, *, tools: Any = (), before: Any = (), after: Any = (), **options: Any) -> Any:
    middleware = [*before, DeltaMemMiddleware(**options), *after]
    return create_agent(
        model, tools=list(tools), middleware=middleware, checkpointer=InMemorySaver()
    )


def say(graph: Any, text: str, where: Any = None, **options: Any) -> dict[str, Any]:
    return graph.invoke({"messages": [("user", text)]}, where or config(), **options)


def memory_of(graph: Any, where: Any = None) -> MemoryState:
    return graph.get_state(where or config()).values["delta_memory"]


def check(graph: Any, heard: Any, where: Any = None) -> None:
    values = graph.get_state(where or config()).values
    assert values["delta_memory"] == heard(values["messages"])


def test_reply_and_memory_land_in_one_superstep(counting: Any, heard: Any) -> None:
    graph = agent(counting())
    for text in ("a", "b", "c"):
        output = say(graph, text)
        assert set(output) == {"messages"}, "the channel is private"
    check(graph, heard)
    steps = 0
    for snapshot in graph.get_state_history(config()):
        said = snapshot.values.get("messages", [])
        replies = [message for message in said if isinstance(message, AIMessage)]
        memory = snapshot.values.get("delta_memory")
        assert (memory is None) == (not replies)
        if memory is not None:
            upto = said[: said.index(replies[-1]) + 1]
            assert memory == heard(upto), "no checkpoint holds a reply without its memory"
        steps += 1
    assert steps == 9


async def test_async_is_the_same(counting: Any, heard: Any) -> None:
    graph = agent(counting())
    for text in ("a", "b"):
        await graph.ainvoke({"messages": [("user", text)]}, config())
    check(graph, heard)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_durability(counting: Any, heard: Any, durability: str) -> None:
    graph = agent(counting())
    for text in ("a", "b"):
        say(graph, text, durability=durability)
    check(graph, heard)


def test_streams_carry_one_line(counting: Any) -> None:
    graph = agent(counting())
    seen = 0
    for mode in ("values", "updates"):
        for part in graph.stream({"messages": [("user", "x")]}, config(), stream_mode=mode):
            text = repr(part)
            if "delta_memory" in text:
                seen += 1
                assert "MemoryState(layers=1" in text
                assert "array(" not in text
                assert len(text) < 2000
    assert seen >= 2


@pytest.mark.parametrize("failures", [1, 2])
def test_a_retried_call_is_written_once(counting: Any, heard: Any, failures: int) -> None:
    def retry() -> ModelRetryMiddleware:
        return ModelRetryMiddleware(max_retries=3, initial_delay=0.0, jitter=False)

    for place in ("before", "after"):
        model = counting(failures=failures, calls=[])
        graph = agent(model, **{place: [retry()]})
        say(graph, "a")
        assert len(model.calls) == failures + 1
        say(graph, "b")
        check(graph, heard)


def test_a_failed_call_leaves_the_memory_as_it_was(counting: Any, heard: Any) -> None:
    model = counting(calls=[])
    graph = agent(model)
    say(graph, "a")
    before = memory_of(graph)
    model.failures = 99
    with pytest.raises(ConnectionError):
        say(graph, "b")
    assert memory_of(graph) == before
    model.failures = 0
    graph.invoke(None, config())
    check(graph, heard)


def test_other_models_pass_through_untouched(counting: Any, heard: Any) -> None:
    other = FakeListChatModel(responses=["from another"])
    model = counting(failures=1, calls=[])
    for place in ("before", "after"):
        model = counting(failures=1, calls=[])
        graph = agent(model, **{place: [ModelFallbackMiddleware(other)]})
        assert say(graph, "a")["messages"][-1].text == "from another"
        assert "delta_memory" not in graph.get_state(config()).values
        assert say(graph, "b")["messages"][-1].text == "3 heard", "and is read at the next call"
        check(graph, heard)
    alone = agent(other)
    assert say(alone, "a")["messages"][-1].text == "from another"


@tool
def look(place: str) -> str:
    """Look somewhere."""
    return f"nothing at {place}"


def calls(*places: str) -> AIMessage:
    return AIMessage(
        "", tool_calls=[{"name": "look", "args": {"place": p}, "id": p} for p in places]
    )


def test_tool_loops_with_parallel_calls(counting: Any, heard: Any) -> None:
    model = counting(script=[calls("left", "right"), AIMessage("nowhere")])
    graph = agent(model, tools=[look])
    assert len(say(graph, "where?")["messages"]) == 5
    say(graph, "thanks")
    check(graph, heard)


def test_an_interrupt_and_its_resume(counting: Any, heard: Any) -> None:
    from langchain.agents.middleware import HumanInTheLoopMiddleware
    from langgraph.types import Command

    model = counting(script=[calls("left"), AIMessage("nowhere")])
    graph = agent(model, tools=[look], before=[HumanInTheLoopMiddleware({"look": True})])
    assert "__interrupt__" in say(graph, "where?")
    graph.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config())
    check(graph, heard)


def test_a_fork_has_the_memory_of_its_own_past(counting: Any, heard: Any) -> None:
    graph = agent(counting())
    say(graph, "a")
    at = graph.get_state(config()).config
    say(graph, "b")
    trunk = graph.get_state(config()).config
    say(graph, "c", at)
    branch = graph.get_state(config()).config
    check(graph, heard, trunk)
    check(graph, heard, branch)
    assert memory_of(graph, trunk) != memory_of(graph, branch)
    for snapshot in list(graph.get_state_history(config())):
        if snapshot.next == ("model",):
            graph.invoke(None, snapshot.config)
            check(graph, heard)


def test_divergence_rebuilds_from_the_nearest_agreeing_checkpoint(
    counting: Any, heard: Any
) -> None:
    graph = agent(counting())
    for text in ("a", "b", "c"):
        say(graph, text)
    second = graph.get_state(config()).values["messages"][2]
    graph.update_state(config(), {"messages": [HumanMessage("B", id=second.id)]})
    say(graph, "d")
    check(graph, heard)
    last = graph.get_state(config()).values["messages"][-1]
    graph.update_state(config(), {"messages": [RemoveMessage(last.id)]}, as_node="__start__")
    graph.invoke(None, config())
    check(graph, heard)


def test_divergence_raises_when_asked(counting: Any) -> None:
    graph = agent(counting(), on_divergence="raise")
    say(graph, "a")
    first = graph.get_state(config()).values["messages"][0]
    graph.update_state(config(), {"messages": [HumanMessage("A", id=first.id)]})
    with pytest.raises(DivergenceError):
        say(graph, "b")


def test_threads_and_tasks_do_not_mix(counting: Any, heard: Any) -> None:
    graph = agent(counting())

    def talk(name: str) -> None:
        for turn in range(3):
            say(graph, f"{name} {turn}", config(name))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(talk, [f"os{i}" for i in range(20)]))

    async def together() -> None:
        async def one(name: str) -> None:
            for turn in range(3):
                await graph.ainvoke({"messages": [("user", f"{name} {turn}")]}, config(name))

        await asyncio.gather(*(one(f"task{i}") for i in range(20)))

    asyncio.run(together())
    for name in [f"os{i}" for i in range(20)] + [f"task{i}" for i in range(20)]:
        check(graph, heard, config(name))


def hand_written(node: Any) -> Any:
    builder = StateGraph(MessagesState).add_node("chat", node).add_edge(START, "chat")
    return builder.compile(checkpointer=InMemorySaver())


async def test_a_hand_written_graph(counting: Any, heard: Any) -> None:
    graph = hand_written(memory_node(counting(), system_prompt="be brief"))
    assert set(say(graph, "a")) == {"messages"}
    await graph.ainvoke({"messages": [("user", "b")]}, config())
    check(graph, heard)
    bound = hand_written(memory_node(counting().bind_tools([look]).with_retry()))
    say(bound, "a")
    say(bound, "b")
    check(bound, heard)
    plain = hand_written(memory_node(FakeListChatModel(responses=["x"])))
    assert say(plain, "a")["messages"][-1].text == "x"
