"""Ingest, revise, retrieve, and a memory that leaves its thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, DivergenceError, StateError, ThreadHistoryError
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.starting import aread_once, pieces, read_once
from deltamem_agents.router import FactStore, HybridRouter

SYSTEM = "Be brief."


def at(thread: str = "t") -> Any:
    return {"configurable": {"thread_id": thread}}


def agent(model: Any, saver: Any, **options: Any) -> Any:
    return create_agent(
        model,
        tools=[],
        system_prompt=SYSTEM,
        middleware=[DeltaMemMiddleware(**options)],
        checkpointer=saver,
    )


def say(graph: Any, text: str, where: Any = None, **options: Any) -> str:
    said = graph.invoke({"messages": [("user", text)]}, where or at(), **options)
    return str(said["messages"][-1].text)


def close(one: MemoryState | None, other: MemoryState | None) -> None:
    assert one is not None
    assert other is not None
    assert one.ledger == other.ledger
    np.testing.assert_allclose(one.state, other.state, atol=1e-5, rtol=0)
    np.testing.assert_allclose(one.boundary_state, other.boundary_state, atol=1e-5, rtol=0)


def replayed(model: Any, messages: Any) -> MemoryState:
    system = {"role": "system", "content": SYSTEM}
    return model.engine.read(None, [system, *map(to_dict, messages)])


def test_ingest_reads_without_an_answer(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    memory = ThreadMemory(graph, at())
    long = " ".join(f"line {i} says {i * i}." for i in range(40))
    report = memory.ingest([long, Document("the gate is 14", metadata={"page": 3})])
    state = graph.get_state(at())
    assert not state.next, "nothing became due"
    assert [message.id for message in state.values["messages"]] == list(report.message_ids)
    assert "".join(m.text for m in state.values["messages"]).startswith("line 0 says 0.")
    assert state.values["messages"][-1].additional_kwargs["metadata"] == {"page": 3}
    close(report.memory, replayed(model, state.values["messages"]))
    assert report.memory.ledger.evicted_count > 0
    say(graph, "which gate?")
    memory.ingest("one more")
    memory.revise("the gate is 15 now")
    say(graph, "which gate?")
    now = graph.get_state(at()).values
    close(now["delta_memory"], replayed(model, now["messages"]))


async def test_async_ingest_into_a_running_thread(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    await graph.ainvoke({"messages": [("user", "hello")]}, at())
    memory = ThreadMemory(graph, at())
    await memory.aingest(["a", HumanMessage("b")])
    await memory.arevise("c")
    now = graph.get_state(at()).values
    assert len(now["messages"]) == 5
    close(await memory.amemory(), replayed(model, now["messages"]))
    assert (await memory.aretrieve("d?")).route == "neural"


def test_retrieve_leaves_no_trace(tiny: Any, file_saver: Any) -> None:
    graph = agent(tiny(), file_saver)
    memory = ThreadMemory(graph, at())
    with pytest.raises(ThreadHistoryError, match="has a memory"):
        memory.retrieve("anything?")
    say(graph, "my dog is Rex")
    before = graph.get_state(at())
    found = memory.retrieve("what is my dog?")
    assert graph.get_state(at()) == before
    assert found.answer == say(graph, "what is my dog?")
    assert found.read["messages_visible"] == 2
    assert found.memory == before.values["delta_memory"]


def test_retrieve_and_revise_with_the_exact_store(tiny: Any, file_saver: Any) -> None:
    store = FactStore(file_saver)
    graph = agent(tiny(), file_saver, router=HybridRouter(store))
    memory = ThreadMemory(graph, at())
    told = memory.ingest("my locker code is 4471")
    found = memory.retrieve("what is my locker code?")
    assert (found.route, found.answer) == ("exact", "Your locker code is 4471.")
    assert found.citations[0]["source_message_id"] == told.message_ids[0]
    memory.revise("my locker code is 93 now")
    assert memory.retrieve("what is my locker code?").answer == "Your locker code is 93."
    memory.forget(told.message_ids)
    assert memory.retrieve("what is my locker code?").answer == "Your locker code is 93."


def test_operators_read_an_edited_thread_as_it_stands(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    memory = ThreadMemory(graph, at())
    only = memory.ingest("the gate is 14").message_ids[0]

    def edit(text: str) -> None:
        change = {"messages": [HumanMessage(text, id=only)]}
        graph.update_state(at(), change, as_node="model")

    edit("the gate is 15")  # all that is visible is changed, which is no eviction
    found = memory.retrieve("which gate?")
    close(found.memory, replayed(model, [HumanMessage("the gate is 15")]))
    memory.ingest("it opens at nine")
    close(memory.memory(), replayed(model, graph.get_state(at()).values["messages"]))
    edit("the gate is 16")
    say(graph, "which gate?")
    close(memory.memory(), replayed(model, graph.get_state(at()).values["messages"]))
    edit("the gate is 17")
    strict = ThreadMemory(agent(model, file_saver, on_divergence="raise"), at())
    for refused in (lambda: strict.ingest("more"), lambda: strict.retrieve("which gate?")):
        with pytest.raises(DivergenceError):
            refused()


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_an_edit_of_all_that_is_visible_is_divergence(
    tiny: Any, file_saver: Any, durability: str
) -> None:
    model = tiny()
    for options in ({}, {"on_divergence": "raise"}):
        graph = agent(model, file_saver, **options)
        where = at(str(options))
        only = ThreadMemory(graph, where).ingest("the gate is 14").message_ids[0]
        change = [HumanMessage("the gate is 15", id=only)]
        graph.update_state(where, {"messages": change}, as_node="model")
        if options:
            with pytest.raises(DivergenceError, match="other texts"):
                say(graph, "which gate?", where, durability=durability)
            continue
        say(graph, "which gate?", where, durability=durability)
        now = graph.get_state(where).values
        close(now["delta_memory"], replayed(model, now["messages"]))


def test_export_import_and_copy(tiny: Any, file_saver: Any, tmp_path: Path) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    for turn in range(5):
        say(graph, f"fact {turn}: {turn * 31}")
    memory = ThreadMemory(graph, at())
    path = tmp_path / "memory.safetensors"
    exported = memory.export(path)
    assert MemoryState.load(path) == exported == memory.memory()
    copied = memory.copy_to("copy")
    imported = ThreadMemory(graph, at("imported")).import_from(path)
    assert copied == imported
    np.testing.assert_array_equal(copied.state, exported.state)
    assert not copied.ledger.visible
    assert not graph.get_state(at("copy")).values.get("messages")
    assert say(graph, "go on", at("copy")) == say(graph, "go on", at("imported"))
    now = graph.get_state(at("copy")).values
    system = {"role": "system", "content": SYSTEM}
    oracle = model.engine.read(copied, [system, *map(to_dict, now["messages"])])
    close(now["delta_memory"], oracle)
    with pytest.raises(StateError, match="one memory"):
        memory.copy_to("copy")
    assert memory.copy_to("copy", replace=True) == copied
    other = ThreadMemory(agent(tiny(template="qwen3"), file_saver), at("else"))
    with pytest.raises(StateError, match="is used with the adapter"):
        other.import_from(path)


def test_forgetting_in_a_thread_that_began_with_a_memory(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph = agent(model, file_saver)
    say(graph, "the past of another thread")
    start = ThreadMemory(graph, at()).copy_to("next")
    for turn in range(6):
        say(graph, f"fact {turn}: {turn * 17}", at("next"))
    second = graph.get_state(at("next")).values["messages"][2].id
    ThreadMemory(graph, at("next")).forget(second)
    now = graph.get_state(at("next")).values
    system = {"role": "system", "content": SYSTEM}
    oracle = model.engine.read(start, [system, *map(to_dict, now["messages"])])
    assert len(now["messages"]) == 10
    close(now["delta_memory"], oracle)


async def test_a_start_that_many_threads_share(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    papers = ["the gate is 14", "the pool opens at nine", "breakfast is at eight"]
    start = read_once(model, system_prompt=SYSTEM, documents=papers)
    assert start == await aread_once(model, system_prompt=SYSTEM, documents=papers)
    assert start.ledger.evicted_count == 3
    assert not start.ledger.visible
    graph = agent(model, file_saver, start=start)
    for name in ("a", "b"):
        say(graph, f"I am {name}", at(name))
        now = graph.get_state(at(name)).values
        system = {"role": "system", "content": SYSTEM}
        oracle = model.engine.read(start, [system, *map(to_dict, now["messages"])])
        close(now["delta_memory"], oracle)
        assert now["delta_start"] == start
    with file_saver.engine.connect() as connection:
        query = "select count(*), count(distinct blob) from channels where channel = 'delta_start'"
        rows, blobs = connection.exec_driver_sql(query).one()
    assert rows >= 2
    assert blobs == 1, "threads share the value"
    empty = read_once(model, system_prompt=SYSTEM)
    assert empty.tokens_written > 0
    assert empty.ledger.pinned


def test_operators_refuse_a_thread_in_the_middle_of_a_run(tiny: Any, file_saver: Any) -> None:
    def wait(state: MessagesState) -> dict[str, Any]:
        interrupt("go on?")
        return {}

    builder = StateGraph(MessagesState).add_node("chat", memory_node(tiny()))
    builder.add_node("wait", wait).add_edge(START, "chat").add_edge("chat", "wait")
    graph = builder.compile(checkpointer=file_saver)
    say(graph, "hello")
    with pytest.raises(ThreadHistoryError, match="waits for its user"):
        ThreadMemory(graph, at()).ingest("more")


def test_bad_material(tiny: Any, file_saver: Any) -> None:
    memory = ThreadMemory(agent(tiny(), file_saver), at())
    with pytest.raises(ConfigError, match="material is"):
        memory.ingest([3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="something to read"):
        memory.ingest("  ")
    with pytest.raises(ConfigError, match="read by a ChatDeltaMem"):
        read_once("gpt")


def test_pieces_hold_the_whole_text() -> None:
    text = "\n\n".join(f"Paragraph {i}. It has two sentences." for i in range(9)) + " " + "x" * 300
    for size in (64, 100, 1000):
        cut = pieces(text, size)
        assert max(map(len, cut)) <= size
        assert "".join("".join(cut).split()) == "".join(text.split())
