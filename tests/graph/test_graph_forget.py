"""Forgetting is exact: state, past, exact store, and the bytes of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, ThreadHistoryError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.past import load_past
from deltamem_agents.graph.saved import messages_in
from deltamem_agents.graph.steps import run
from deltamem_agents.graph.thread import Thread
from deltamem_agents.router import FactStore, HybridRouter

WHERE: Any = {"configurable": {"thread_id": "t"}}
SECRET = "XK-4471-Q"


def agent(model: Any, saver: Any, tools: Any = (), **options: Any) -> Any:
    return create_agent(
        model, tools=list(tools), middleware=[DeltaMemMiddleware(**options)], checkpointer=saver
    )


def say(graph: Any, text: str, where: Any = WHERE, **options: Any) -> list[Any]:
    return graph.invoke({"messages": [("user", text)]}, where, **options)["messages"]


def close(one: MemoryState | None, other: MemoryState | None) -> None:
    assert one is not None
    assert other is not None
    assert one.ledger == other.ledger
    np.testing.assert_allclose(one.state, other.state, atol=1e-5, rtol=0)
    np.testing.assert_allclose(one.boundary_state, other.boundary_state, atol=1e-5, rtol=0)


def replayed(model: Any, messages: Any) -> MemoryState:
    return model.engine.read(None, [to_dict(message) for message in messages])


def told(graph: Any, turns: int = 8, secret: int = 2, **options: Any) -> str:
    for turn in range(turns):
        text = f"my badge is {SECRET}" if turn == secret else f"fact {turn}: {turn * 7}"
        say(graph, text, **options)
    found = [m for m in graph.get_state(WHERE).values["messages"] if SECRET in m.text]
    return found[0].id


@pytest.mark.parametrize("secret", [0, 2, 7], ids=["first", "evicted", "visible"])
def test_the_state_is_that_of_a_thread_that_never_heard(
    tiny: Any, file_saver: Any, secret: int
) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    badge = told(graph, secret=secret)
    report = ThreadMemory(graph, WHERE).forget(badge)
    assert len(report.message_ids) == 2, "the whole turn goes"
    assert report.purged
    now = graph.get_state(WHERE).values
    assert len(now["messages"]) == 14
    close(now["delta_memory"], replayed(model, now["messages"]))
    assert report.memory == now["delta_memory"]
    say(graph, "and on")
    now = graph.get_state(WHERE).values
    close(now["delta_memory"], replayed(model, now["messages"]))


def test_every_checkpoint_of_the_past_is_rewritten(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    badge = told(graph)
    before = [one.config["configurable"]["checkpoint_id"] for one in _history(graph)]
    ThreadMemory(graph, WHERE).forget([badge])
    after = _history(graph)
    assert [one.config["configurable"]["checkpoint_id"] for one in after] == before
    checked = 0
    for one in after:
        said = one.values.get("messages", [])
        assert not [message for message in said if SECRET in message.text]
        memory = one.values.get("delta_memory")
        if memory is not None:
            replies = [m for m in said if isinstance(m, AIMessage)]
            heard = said[: said.index(replies[-1]) + 1]
            close(memory, replayed(model, heard))
            checked += 1
    assert checked == 1 + 7 * 3, "all but the three before the first reply"


def _history(graph: Any) -> list[Any]:
    return list(graph.get_state_history(WHERE))


def test_the_bytes_leave_the_file(tiny: Any, tmp_path: Path) -> None:
    model = tiny()
    path = tmp_path / "agent.db"
    with SQLAlchemySaver(f"sqlite:///{path}") as saver:
        store = FactStore(saver)
        graph = agent(model, saver, router=HybridRouter(store))
        badge = told(graph)
        held = sum(SECRET.encode() in part.read_bytes() for part in tmp_path.iterdir())
        assert held >= 1
        report = ThreadMemory(graph, WHERE).forget(badge)
        assert len(report.facts) == 1
        for part in tmp_path.iterdir():
            assert SECRET.encode() not in part.read_bytes(), part.name
    for part in tmp_path.iterdir():
        assert SECRET.encode() not in part.read_bytes(), part.name


def test_facts_of_another_agent_on_the_thread_go_too(tiny: Any, tmp_path: Path) -> None:
    model = tiny(context_window=480, low_water=300)
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        store = FactStore(saver)
        routed = agent(model, saver, router=HybridRouter(store))
        badge = told(routed, turns=3, secret=1)
        scope = store.branch("t", routed.get_state(WHERE).values["fact_head"])
        assert [fact.value for fact in store.facts(scope)].count(SECRET) == 1
        report = ThreadMemory(agent(model, saver), WHERE).forget(badge)
        assert len(report.facts) == 1
        assert SECRET not in [fact.value for fact in store.facts(scope, closed=True)]
        for part in tmp_path.iterdir():
            assert SECRET.encode() not in part.read_bytes(), part.name


def test_a_long_past_holds_each_message_once(counting: Any, file_saver: Any) -> None:
    graph = agent(counting(), file_saver)
    for turn in range(12):
        say(graph, f"fact {turn}")
    past = run(load_past(Thread.of(graph, WHERE))).saved
    held = [message for saved in past for message in messages_in(saved)]
    assert len(held) > 12 * 24, "each checkpoint holds the conversation"
    assert len({id(message) for message in held}) == len({message.id for message in held}) == 24
    edited = HumanMessage("another", id=held[0].id)
    graph.update_state(WHERE, {"messages": [edited]})
    past = run(load_past(Thread.of(graph, WHERE))).saved
    texts = {m.text for saved in past for m in messages_in(saved) if m.id == edited.id}
    assert texts == {"another", held[0].text}, "an edited message is two"


def test_forks_forget_too(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    badge = told(graph, turns=4, secret=1)
    trunk = graph.get_state(WHERE).config
    third = next(one for one in _history(graph) if len(one.values.get("messages", ())) == 4)
    say(graph, "a branch of its own", third.config)
    branch = graph.get_state(WHERE).config
    ThreadMemory(graph, WHERE).forget(badge)
    for tip, length in ((trunk, 6), (branch, 4)):
        now = graph.get_state(tip).values
        assert len(now["messages"]) == length
        close(now["delta_memory"], replayed(model, now["messages"]))


@tool
def look(place: str) -> str:
    """Look somewhere."""
    return f"{SECRET} lies at {place}"


def test_repeats_are_reported_and_forgotten_when_asked(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    badge = told(graph, turns=4)
    later = say(graph, f"as I said, {SECRET.lower()} it is")[-2].id
    say(graph, f"not {SECRET}7 though")
    memory = ThreadMemory(graph, WHERE)
    report = memory.forget(badge)
    assert [(repeat.message_id, repeat.value) for repeat in report.repeats] == [(later, SECRET)]
    again = memory.forget(lambda message: message.id == later, repeats="forget")
    assert later in again.message_ids
    assert not again.repeats
    texts = [message.text for message in graph.get_state(WHERE).values["messages"]]
    assert not [text for text in texts if "it is" in text]
    assert [text for text in texts if f"{SECRET}7" in text]


def test_all_forgotten_leaves_an_empty_memory(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    told(graph, turns=2, secret=0)
    report = ThreadMemory(graph, WHERE).forget(lambda message: True)
    assert report.memory is None
    assert len(report.message_ids) == 4
    say(graph, "a new beginning")
    now = graph.get_state(WHERE).values
    close(now["delta_memory"], replayed(model, now["messages"]))


def test_an_agent_inside_the_graph_forgets_too(tiny: Any, tmp_path: Path) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    from deltamem_agents.graph.nodes import memory_node

    model = tiny()
    inner = create_agent(
        model, tools=[], middleware=[DeltaMemMiddleware()], name="inner", checkpointer=True
    )
    builder = StateGraph(MessagesState).add_node("inner", inner)
    builder.add_node("chat", memory_node(model))
    builder.add_edge(START, "inner").add_edge("inner", "chat")
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = builder.compile(checkpointer=saver)
        badge = told(graph, turns=3, secret=1)
        ThreadMemory(graph, WHERE).forget(badge)
        for part in tmp_path.iterdir():
            assert SECRET.encode() not in part.read_bytes(), part.name
        now = graph.get_state(WHERE).values
        close(saver.memory_at(WHERE, "delta_memory"), replayed(model, now["messages"]))
        nested: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "inner"}}
        assert saver.memory_at(nested, "delta_memory") is None
        said = say(graph, "and on")
        close(saver.memory_at(nested, "delta_memory"), replayed(model, said[:-1]))


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("keeps", [True, None], ids=["persistent", "once a call"])
def test_what_a_worker_was_told_in_a_forgotten_turn_goes_too(
    tiny: Any, tmp_path: Path, keeps: bool | None, durability: str
) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    from deltamem_agents.graph.nodes import memory_node

    model = tiny()
    middleware = [DeltaMemMiddleware()]
    worker = create_agent(model, tools=[], middleware=middleware, checkpointer=keeps)

    def supervise(state: MessagesState) -> dict[str, Any]:
        task = f"task: {state['messages'][-1].text}"  # a message of its own, with another id
        worker.invoke({"messages": [("user", task)]})
        return {"messages": [AIMessage("the worker is done")]}

    builder = StateGraph(MessagesState).add_node("supervise", supervise)
    builder.add_node("chat", memory_node(model))
    builder.add_edge(START, "supervise").add_edge("supervise", "chat")
    with SQLAlchemySaver(f"sqlite:///{tmp_path / 'agent.db'}") as saver:
        graph = builder.compile(checkpointer=saver)
        badge = told(graph, turns=3, secret=1, durability=durability)
        assert any(SECRET.encode() in part.read_bytes() for part in tmp_path.iterdir())
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        for part in tmp_path.iterdir():
            assert SECRET.encode() not in part.read_bytes(), part.name
        now = graph.get_state(WHERE).values
        close(now["delta_memory"], replayed(model, now["messages"]))
        say(graph, "and on")
        if not keeps:
            return
        inside: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "supervise"}}
        held = saver.get_tuple(inside).checkpoint["channel_values"]
        tasks = [m.text for m in held["messages"] if m.type == "human"]
        assert tasks == ["task: fact 0: 0", "task: fact 2: 14", "task: and on"]
        close(held["delta_memory"], replayed(model, held["messages"]))


async def test_async_and_other_savers(tiny: Any) -> None:
    model = tiny()
    graph = agent(model, InMemorySaver())
    badge = told(graph)
    report = await ThreadMemory(graph, WHERE).aforget(badge)
    assert not report.purged
    now = graph.get_state(WHERE).values
    close(now["delta_memory"], replayed(model, now["messages"]))
    say(graph, "and on")


def test_what_was_removed_from_the_state_is_replayed_from_the_past(
    tiny: Any, file_saver: Any
) -> None:
    from langchain_core.messages import RemoveMessage

    model = tiny()
    graph = agent(model, file_saver)
    badge = told(graph)
    everything = graph.get_state(WHERE).values["messages"]
    oldest = [RemoveMessage(message.id) for message in everything[:8]]
    graph.update_state(WHERE, {"messages": oldest})
    say(graph, "the last word")
    now = graph.get_state(WHERE).values
    assert len(now["messages"]) == 10
    ThreadMemory(graph, WHERE).forget(badge)
    heard = [m for m in everything if m.id not in {badge}]
    heard = [m for m in heard if m is not everything[5]] + now["messages"][-2:]
    close(graph.get_state(WHERE).values["delta_memory"], replayed(model, heard))


def test_bad_calls_say_what_to_do(tiny: Any, file_saver: Any) -> None:
    graph = agent(tiny(), file_saver)
    say(graph, "hello")
    memory = ThreadMemory(graph, WHERE)
    before = graph.get_state(WHERE)
    with pytest.raises(ThreadHistoryError, match="is a message of the thread"):
        memory.forget(["no such id"])
    with pytest.raises(ConfigError, match="repeats is"):
        memory.forget(lambda message: True, repeats="maybe")  # type: ignore[arg-type]
    with pytest.raises(ThreadHistoryError, match="names its thread"):
        ThreadMemory(graph, {"configurable": {}})
    with pytest.raises(ThreadHistoryError, match="checkpointer"):
        ThreadMemory(agent(tiny(), None), WHERE)
    assert memory.forget(lambda message: False).message_ids == ()
    assert graph.get_state(WHERE) == before
