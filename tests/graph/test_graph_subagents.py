"""Agents as deepagents builds them: subagents behind a tool, messages kept as changes, summaries
for one call, people who approve and edit. The real model, tiny and untrained.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    TodoListMiddleware,
)
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.channels import DeltaChannel
from langgraph.graph.message import add_messages
from langgraph.types import Command

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory

WIDE: Any = {"context_window": 12000, "low_water": 8000, "max_tokens": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from deltamem_agents.chat import ChatDeltaMem
    from deltamem_agents.testing import save_tiny

    folder = tmp_path_factory.mktemp("wide")
    backbone, adapter = save_tiny(folder, window=16384, layers=2, hidden=32)
    return ChatDeltaMem(model=str(backbone), adapter=str(adapter), **WIDE)


def at(thread: str = "t") -> Any:
    return {"configurable": {"thread_id": thread}}


def say(graph: Any, text: str, where: Any = None) -> Any:
    return graph.invoke({"messages": [HumanMessage(text)]}, where or at())


class Delegate(AgentMiddleware[Any, Any, Any]):
    """In the network's place after a question: hands out tasks, then lets the model answer."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.tasks, self.handed = tasks, 0

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        last = request.messages[-1]
        if not isinstance(last, HumanMessage) or not last.text.startswith("please"):
            return handler(request)
        calls = []
        for _ in range(self.tasks):
            self.handed += 1
            given = {"description": f"{last.text} {self.handed}"}
            calls.append({"name": "task", "args": given, "id": f"call {self.handed}"})
        return AIMessage("", tool_calls=calls)


def joined(left: list[AnyMessage] | None, writes: Sequence[Any]) -> list[AnyMessage]:
    result: Any = left or []
    for write in writes:
        result = add_messages(result, write)
    return list(result)


class ChangesState(AgentState[Any]):
    """Messages as deepagents keeps them."""

    messages: Annotated[list[AnyMessage], DeltaChannel(joined)]  # type: ignore[misc]


class Read:
    """What the subagent's memory was after each of its tasks."""

    def __init__(self) -> None:
        self.memories: list[tuple[MemoryState, list[Any]]] = []


def deep(model: Any, saver: Any, *, tasks: int = 2, before: Any = (), read: Any = None) -> Any:
    """An agent with a `task` tool behind which a subagent with a memory of its own works."""

    class Note(AgentMiddleware[Any, Any, Any]):
        state_schema = DeltaMemMiddleware().state_schema

        def after_agent(self, state: Any, runtime: Any) -> None:
            if read is not None:
                read.memories.append((state["delta_memory"], state["messages"]))

    helper = create_agent(
        model, tools=[], system_prompt="You weigh.", middleware=[Note(), DeltaMemMiddleware()]
    )

    @tool
    def task(description: str) -> str:
        """Hand a task to a helper."""
        return str(helper.invoke({"messages": [HumanMessage(description)]})["messages"][-1].text)

    middleware = [TodoListMiddleware(), *before, Delegate(tasks), DeltaMemMiddleware()]
    return create_agent(
        model,
        tools=[task],
        system_prompt="You lead.",
        middleware=middleware,
        state_schema=ChangesState,
        checkpointer=saver,
    )


def check(graph: Any, where: Any = None) -> None:
    """The memory is that of a fresh reading, with the prompt and tools that the agent uses."""
    now = graph.get_state(where or at()).values
    held = now["delta_memory"]
    assert held.ledger.evicted_count + len(held.ledger.visible) == len(now["messages"])
    fresh = ThreadMemory(graph, at(uuid.uuid4().hex))
    oracle = fresh.ingest(now["messages"]).memory
    assert held.ledger == oracle.ledger
    np.testing.assert_allclose(held.state, oracle.state, atol=1e-5, rtol=0)


def test_subagents_behind_a_tool_have_memories_of_their_own(model: Any, file_saver: Any) -> None:
    read = Read()
    graph = deep(model, file_saver, read=read)
    for turn in range(2):
        output = say(graph, f"please weigh {turn}")
        assert "delta_memory" not in output
    said = graph.get_state(at()).values["messages"]
    assert [message.type for message in said] == ["human", "ai", "tool", "tool", "ai"] * 2
    check(graph)
    assert len(read.memories) == 4, "two tasks a turn, side by side"
    for memory, heard in read.memories:
        assert len(heard) == 2
        system = {"role": "system", "content": "You weigh."}
        alone = model.engine.read(None, [system, *map(to_dict, heard)])
        assert memory.ledger == alone.ledger
        np.testing.assert_allclose(memory.state, alone.state, atol=1e-5, rtol=0)


def test_operators_on_messages_that_are_kept_as_changes(model: Any, file_saver: Any) -> None:
    graph = deep(model, file_saver)
    say(graph, "please weigh it")
    saved = file_saver.get_tuple(at())
    assert "messages" not in saved.checkpoint["channel_values"], "they are changes"
    memory = ThreadMemory(graph, at())
    assert memory.retrieve("what?").route == "neural"
    fork = graph.get_state(at()).config
    before = [message.id for message in graph.get_state(fork).values["messages"]]
    told = memory.ingest(["the gate is 14", "it is open"])
    say(graph, "and?")
    say(graph, "please go on", fork)  # the fork has nothing of what was ingested on the trunk
    assert told.message_ids[0] not in [m.id for m in graph.get_state(at()).values["messages"]]
    branch = ThreadMemory(graph, fork).ingest("on a branch")
    on_branch = graph.get_state(branch.config).values["messages"]
    assert [message.id for message in on_branch] == [*before, *branch.message_ids]
    check(graph)
    assert memory.forget(told.message_ids).message_ids == told.message_ids
    for one in graph.get_state_history(at()):
        assert not {m.id for m in one.values.get("messages", [])} & set(told.message_ids)
    check(graph)


@pytest.mark.parametrize("mode", ["batched", "per_call"])
def test_people_approve_edit_and_reject_parallel_calls(
    model: Any, file_saver: Any, mode: Any
) -> None:
    people = HumanInTheLoopMiddleware({"task": True}, interrupt_mode=mode)
    graph = deep(model, file_saver, tasks=3, before=[people])
    waiting = say(graph, "please weigh it")["__interrupt__"]
    assert len(waiting) == (1 if mode == "batched" else 3)
    edited = {"name": "task", "args": {"description": "something else"}}
    decisions: list[Any] = [
        {"type": "approve"},
        {"type": "edit", "edited_action": edited},
        {"type": "reject", "message": "not this"},
    ]
    answer: Any = {"decisions": decisions}
    if mode == "per_call":
        answer = {one.id: decision for one, decision in zip(waiting, decisions, strict=True)}
    graph.invoke(Command(resume=answer), at())
    said = graph.get_state(at()).values["messages"]
    assert [message.type for message in said] == ["human", "ai", "tool", "tool", "tool", "ai"]
    assert sum("not this" in message.text for message in said) == 1
    check(graph)
    say(graph, "thank you")
    check(graph)


class SummaryForOneCall(AgentMiddleware[Any, Any, Any]):
    """Shows a summary in the place of old messages and leaves the state as it is."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        if len(request.messages) < 6:
            return handler(request)
        marks = {"lc_source": "summarization"}
        summary = HumanMessage("they spoke", additional_kwargs=marks)
        return handler(request.override(messages=[summary, *request.messages[-3:]]))


def test_a_summary_for_one_call_is_an_eviction(model: Any, file_saver: Any) -> None:
    graph = create_agent(
        model,
        tools=[],
        middleware=[SummaryForOneCall(), DeltaMemMiddleware()],
        checkpointer=file_saver,
    )
    written = 0
    for turn in range(6):
        say(graph, f"turn {turn}")
        now = graph.get_state(at()).values
        assert now["delta_memory"].tokens_written > written
        assert now["delta_memory"].tokens_written - written < 90, "only the turn is written"
        written = now["delta_memory"].tokens_written
        assert len(now["messages"]) == 2 * turn + 2, "the state keeps them all"
    assert now["delta_memory"].ledger.evicted_count > 0
    kept = ThreadMemory(graph, at()).retrieve("what?").memory
    assert kept == now["delta_memory"], "the operators read the whole history as known"
