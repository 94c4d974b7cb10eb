"""Graphs in graphs, parallel branches, other middleware, and many threads at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelFallbackMiddleware,
    SummarizationMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, ConfigDict

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, ParallelMemoryError
from deltamem_agents.graph.channel import MemoryChannel
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node


def at(thread: str = "t") -> Any:
    return {"configurable": {"thread_id": thread}}


def say(graph: Any, text: str, where: Any = None) -> Any:
    return graph.invoke({"messages": [("user", text)]}, where or at())


def values(graph: Any, where: Any = None) -> dict[str, Any]:
    return graph.get_state(where or at()).values


def close(one: MemoryState, other: MemoryState) -> None:
    assert one.ledger == other.ledger
    np.testing.assert_allclose(one.state, other.state, atol=1e-5, rtol=0)


def replayed(model: Any, messages: Any, tools: Any = None) -> MemoryState:
    from deltamem_agents.chat.tools import tool_schemas

    schemas = tool_schemas(tools or ()) or None
    return model.engine.read(None, [to_dict(message) for message in messages], tools=schemas)


def worker(model: Any, name: str, prompt: str | None = None, **options: Any) -> Any:
    middleware = [DeltaMemMiddleware(**options)]
    return create_agent(model, tools=[], middleware=middleware, name=name, system_prompt=prompt)


class SharedState(AgentState[Any]):
    delta_memory: Annotated[MemoryState | None, MemoryChannel()]
    delta_start: Annotated[MemoryState | None, MemoryChannel()]
    fact_head: Annotated[str | None, MemoryChannel(str)]


class ReplayState(AgentState[Any]):
    delta_memory: Annotated[MemoryState | None, MemoryChannel(merge="replay")]
    delta_start: Annotated[MemoryState | None, MemoryChannel(merge="replay")]
    fact_head: Annotated[str | None, MemoryChannel(str, merge="replay")]


def chain(schema: Any, first: Any, second: Any, *, parallel: bool = False) -> Any:
    builder = StateGraph(schema).add_node("first", first).add_node("second", second)
    builder.add_edge(START, "first")
    builder.add_edge(START if parallel else "first", "second")
    return builder.compile(checkpointer=InMemorySaver())


def test_agents_in_a_graph_have_memories_of_their_own(tiny: Any) -> None:
    model = tiny()
    one = create_agent(
        model, tools=[], middleware=[DeltaMemMiddleware()], name="one", checkpointer=True
    )
    two = create_agent(
        model, tools=[], middleware=[DeltaMemMiddleware()], name="two", checkpointer=True
    )
    builder = StateGraph(MessagesState).add_node("one", one).add_node("two", two)
    builder.add_edge(START, "one").add_edge("one", "two")
    graph = builder.compile(checkpointer=InMemorySaver())
    for text in ("hello", "again"):
        say(graph, text)
    assert set(values(graph)) == {"messages"}, "the parent sees no memory"
    said = values(graph)["messages"]
    nested = {
        space: graph.checkpointer.get_tuple(
            {"configurable": {"thread_id": "t", "checkpoint_ns": space}}
        ).checkpoint["channel_values"]["delta_memory"]
        for space in ("one", "two")
    }
    close(nested["one"], replayed(model, said[:-1]))
    close(nested["two"], replayed(model, said))


def test_agents_share_one_memory_when_asked(tiny: Any) -> None:
    model = tiny()
    pair = [worker(model, name, shared=True) for name in ("one", "two")]
    graph = chain(SharedState, *pair)
    for text in ("hello", "again"):
        assert "delta_memory" in say(graph, text)
    now = values(graph)
    assert len(now["messages"]) == 6
    close(now["delta_memory"], replayed(model, now["messages"]))


def test_two_branches_that_write_one_memory_are_an_error(tiny: Any) -> None:
    model = tiny()
    pair = [worker(model, name, f"You are {name}.", shared=True) for name in ("one", "two")]
    graph = chain(SharedState, *pair, parallel=True)
    with pytest.raises(ParallelMemoryError, match="merge='replay'"):
        say(graph, "hello")
    two = [memory_node(model, system_prompt=f"You are {name}.") for name in ("one", "two")]
    nodes = chain(MessagesState, *two, parallel=True)
    with pytest.raises(ParallelMemoryError, match="one writer in a superstep"):
        say(nodes, "hello")


def test_branches_are_merged_by_replay_when_asked(tiny: Any) -> None:
    model = tiny()
    pair = [worker(model, name, shared=True, merge="replay") for name in ("one", "two")]
    builder = StateGraph(ReplayState).add_node("one", pair[0]).add_node("two", pair[1])
    builder.add_node("last", worker(model, "last", shared=True, merge="replay"))
    builder.add_edge(START, "one").add_edge(START, "two")
    builder.add_edge(["one", "two"], "last")
    graph = builder.compile(checkpointer=InMemorySaver())
    for text in ("hello", "again"):
        say(graph, text)
    now = values(graph)
    assert len(now["messages"]) == 8
    close(now["delta_memory"], replayed(model, now["messages"]))


def test_a_merge_function_gets_the_memories_of_the_branches(tiny: Any) -> None:
    model = tiny()
    seen: list[Any] = []

    def longest(before: Any, after: Any) -> Any:
        seen.append((before, after))
        return max(after, key=lambda memory: memory.tokens_written)

    one, two = (model.engine.read(None, [{"role": "user", "content": t}]) for t in ("a", "bbb"))
    channel = MemoryChannel(merge=longest)
    assert channel.update([one])
    assert channel.copy().update([one, one]), "a branch that changed nothing is no writer"
    channel.update([two, one.__copy__()])
    assert channel.get() == two
    channel.update([one, replayed(model, [HumanMessage("cc")])])
    assert seen[0][0] == two
    assert channel.get().tokens_written == max(m.tokens_written for m in seen[0][1])
    with pytest.raises(ConfigError, match="merge is"):
        MemoryChannel(merge="sum")  # type: ignore[arg-type]


def test_a_supervisor_and_its_worker(tiny: Any) -> None:
    model = tiny()
    helper = create_agent(
        model, tools=[], middleware=[DeltaMemMiddleware()], name="helper", checkpointer=True
    )

    def supervise(state: MessagesState) -> dict[str, Any]:
        answer = helper.invoke({"messages": [("user", f"task: {state['messages'][-1].text}")]})
        return {"messages": [HumanMessage(f"the helper says {answer['messages'][-1].text}")]}

    builder = StateGraph(MessagesState).add_node("supervise", supervise)
    builder.add_node("chat", memory_node(model))
    builder.add_edge(START, "supervise").add_edge("supervise", "chat").add_edge("chat", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    for text in ("weigh it", "send it"):
        say(graph, text)
    said = values(graph)["messages"]
    close(values(graph)["delta_memory"], replayed(model, said))
    found = graph.checkpointer.get_tuple(
        {"configurable": {"thread_id": "t", "checkpoint_ns": "supervise"}}
    ).checkpoint["channel_values"]
    assert len(found["messages"]) == 4, "the worker remembers its own tasks"
    close(found["delta_memory"], replayed(model, found["messages"]))


def test_a_summary_evicts_and_is_not_written(tiny: Any) -> None:
    model = tiny(context_window=400, low_water=380)
    summarise = SummarizationMiddleware(
        FakeListChatModel(responses=["they spoke"]), trigger=("messages", 6), keep=("messages", 2)
    )
    graph = create_agent(
        model, tools=[], middleware=[summarise, DeltaMemMiddleware()], checkpointer=InMemorySaver()
    )
    for turn in range(3):
        say(graph, f"turn {turn}")
    before = values(graph)["delta_memory"]
    say(graph, "turn 3")
    now = values(graph)
    assert now["messages"][0].text.startswith("Here is a summary")
    after = now["delta_memory"]
    assert after.ledger.evicted_count > 0
    new = sum(len(f"<|im_start|>{m.type}\n\n{m.text}") for m in now["messages"][-2:])
    assert 0 < after.tokens_written - before.tokens_written < new + 30, "the summary is not written"
    for turn in range(4, 7):
        say(graph, f"turn {turn}")
    assert values(graph)["delta_memory"].tokens_written > after.tokens_written


attempts: list[str] = []


class Where(BaseModel):
    model_config = ConfigDict(extra="forbid")
    place: str


@tool(args_schema=Where)
def flaky(place: str) -> str:
    """Fail, then answer."""
    attempts.append(place)
    if len(attempts) == 1:
        raise ConnectionError(place)
    return "found"


class CallFirst(AgentMiddleware[Any, Any, Any]):
    """Makes the model call a tool after a question, and answer after a result."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        asked = isinstance(request.messages[-1], HumanMessage)
        return handler(request.override(tool_choice="any" if asked else "none"))


def test_beside_tool_retry_and_fallbacks(tiny: Any, file_saver: Any) -> None:
    model = tiny(context_window=800, low_water=700, max_tokens=120)
    graph = create_agent(
        model,
        tools=[flaky],
        middleware=[
            ToolRetryMiddleware(max_retries=1, initial_delay=0.0),
            ModelFallbackMiddleware(FakeListChatModel(responses=["another"])),
            CallFirst(),
            DeltaMemMiddleware(),
        ],
        checkpointer=file_saver,
    )
    attempts.clear()
    say(graph, "where is it?")
    now = values(graph)
    assert [message.type for message in now["messages"]] == ["human", "ai", "tool", "ai"]
    assert len(attempts) == 2
    assert now["messages"][2].text == "found"
    close(now["delta_memory"], replayed(model, now["messages"], [flaky]))


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_a_hundred_threads_at_once(tiny: Any, file_saver: Any, way: str) -> None:
    model = tiny(max_tokens=2)
    middleware = [DeltaMemMiddleware()]
    graph = create_agent(model, tools=[], middleware=middleware, checkpointer=file_saver)
    names = [f"{way} {number}" for number in range(100)]

    def talk(name: str) -> None:
        for turn in range(2):
            say(graph, f"{name} says {turn}", at(name))

    async def talk_together() -> None:
        async def one(name: str) -> None:
            for turn in range(2):
                await graph.ainvoke({"messages": [("user", f"{name} says {turn}")]}, at(name))

        await asyncio.gather(*(one(name) for name in names))

    if way == "threads":
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(talk, names))
    else:
        asyncio.run(talk_together())
    for name in names:
        now = values(graph, at(name))
        assert [m.text for m in now["messages"][::2]] == [f"{name} says 0", f"{name} says 1"]
        close(now["delta_memory"], replayed(model, now["messages"]))
