"""The operators read as the thread's calls did: system prompts, tools, context, other texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import dynamic_prompt, wrap_model_call
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.memory import InMemoryStore

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, ThreadHistoryError
from deltamem_agents.graph.channel import MemoryChannel
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory

WHERE: Any = {"configurable": {"thread_id": "t"}}
KIND = "You are kind."


class SharedState(AgentState[Any]):
    delta_memory: Annotated[MemoryState | None, MemoryChannel()]


@dataclass
class Context:
    user: str


def talk(graph: Any, count: int = 4, first: Any = (), **options: Any) -> None:
    for number in range(count):
        said = HumanMessage(f"fact {number}", id=f"h{number}")
        graph.invoke({"messages": [*first, said] if not number else [said]}, WHERE, **options)


def held(graph: Any) -> Any:
    return graph.get_state(WHERE).values


def as_if_never_heard(model: Any, state: Any, system: str = "") -> None:
    """The memory is that of a thread which heard just the messages that are there."""
    head = [{"role": "system", "content": system}] if system else []
    fresh = model.engine.read(None, [*head, *map(to_dict, state["messages"])])
    assert state["delta_memory"].ledger == fresh.ledger
    np.testing.assert_allclose(state["delta_memory"].state, fresh.state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [{}, {"context_window": 600, "low_water": 400}])
def test_a_system_message_of_the_thread_is_read_again(tiny: Any, window: Any) -> None:
    model = tiny(**window)
    builder = StateGraph(MessagesState).add_node("chat", memory_node(model)).add_edge(START, "chat")
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    talk(graph, 6, [SystemMessage(KIND, id="s")])
    ThreadMemory(graph, WHERE).forget("h2")
    assert held(graph)["messages"][0].type == "system"
    as_if_never_heard(model, held(graph))
    ThreadMemory(graph, WHERE).forget("s")
    assert held(graph)["messages"][0].type == "human"
    as_if_never_heard(model, held(graph))


def family(model: Any, *prompts: str) -> Any:
    """A graph and agents inside it that have one memory."""
    builder = StateGraph(SharedState)
    for number, prompt in enumerate(prompts):
        agent = create_agent(
            model,
            tools=[],
            system_prompt=prompt,
            middleware=[DeltaMemMiddleware(shared=True)],
            name=f"agent{number}",
        )
        builder.add_node(f"agent{number}", agent)
        builder.add_edge(f"agent{number - 1}" if number else START, f"agent{number}")
    return builder.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("told", [False, True])
def test_an_agent_that_shares_its_memory_tells_how_it_reads(tiny: Any, told: bool) -> None:
    model = tiny(context_window=600, low_water=400)
    graph = family(model, KIND)
    talk(graph)
    memory = ThreadMemory(graph, WHERE, model=model if told else None)
    memory.forget("h1")
    as_if_never_heard(model, held(graph), KIND)
    memory.ingest("and more")
    as_if_never_heard(model, held(graph), KIND)


def test_agents_that_read_differently_are_refused(tiny: Any) -> None:
    model = tiny(context_window=600, low_water=400)
    graph = family(model, KIND, "You are brief.")
    talk(graph, 2)
    with pytest.raises(ConfigError, match="system_prompt="):
        ThreadMemory(graph, WHERE).retrieve("what?")


def hidden(model: Any) -> Any:
    """A graph that does not tell how its memory is read: a node calls the agent by a name."""
    agents = {
        "kind": create_agent(
            model,
            tools=[],
            system_prompt=KIND,
            middleware=[DeltaMemMiddleware(shared=True)],
        )
    }

    def call(state: SharedState) -> Any:
        values: Any = {name: value for name, value in state.items() if value is not None}
        return agents["kind"].invoke(values)

    builder = StateGraph(SharedState).add_node("call", call).add_edge(START, "call")
    return builder.compile(checkpointer=InMemorySaver())


def test_what_was_read_with_another_prompt_is_refused(tiny: Any) -> None:
    model = tiny(context_window=600, low_water=400)
    graph = hidden(model)
    talk(graph)
    before = held(graph)
    for wrong in ({}, {"system_prompt": "You are mean."}):
        for name in ("h0", "h2", "h3"):
            with pytest.raises(ThreadHistoryError, match="system_prompt="):
                ThreadMemory(graph, WHERE, model=model, **wrong).forget(name)
    assert held(graph) == before
    ThreadMemory(graph, WHERE, model=model, system_prompt=KIND).forget("h1")
    as_if_never_heard(model, held(graph), KIND)
    memory = ThreadMemory(graph, WHERE, model=model, system_prompt="You are mean.")
    memory.forget("h2", undecided="forget")
    assert [m.id for m in held(graph)["messages"] if m.type == "human"] == ["h0", "h3"]


def test_middleware_is_given_context_and_store(tiny: Any) -> None:
    @dynamic_prompt
    def prompt(request: Any) -> str:
        return f"You help {request.runtime.context.user}."

    @wrap_model_call
    def look(request: Any, handler: Any) -> Any:
        request.runtime.store.search(("a",))
        return handler(request)

    model = tiny(context_window=600, low_water=400)
    graph: Any = create_agent(
        model,
        tools=[],
        middleware=[prompt, look, DeltaMemMiddleware()],
        context_schema=Context,
        store=InMemoryStore(),
        checkpointer=InMemorySaver(),
    )
    talk(graph, context=Context("Ann"))
    for operator in ("forget", "ingest", "retrieve"):
        with pytest.raises(ConfigError, match="context="):
            getattr(ThreadMemory(graph, WHERE), operator)("h1")
    with pytest.raises(ThreadHistoryError, match="context="):
        ThreadMemory(graph, WHERE, context=Context("Bob")).forget("h1")
    ThreadMemory(graph, WHERE, context={"user": "Ann"}).forget("h1")
    as_if_never_heard(model, held(graph), "You help Ann.")
    ThreadMemory(graph, WHERE, context=Context("Ann")).ingest("more")
    ThreadMemory(graph, WHERE, model=model, system_prompt="You help Ann.").forget("h2")
    as_if_never_heard(model, held(graph), "You help Ann.")


def test_texts_of_one_call_are_not_read_again(tiny: Any) -> None:
    @wrap_model_call
    def today(request: Any, handler: Any) -> Any:
        *before, last = request.messages
        shown = last.model_copy(update={"content": f"{last.text} (Monday)"})
        return handler(request.override(messages=[*before, shown]))

    model = tiny(context_window=600, low_water=400)
    graph: Any = create_agent(
        model,
        tools=[],
        system_prompt=KIND,
        middleware=[today, DeltaMemMiddleware()],
        checkpointer=InMemorySaver(),
    )
    talk(graph, 5)
    ThreadMemory(graph, WHERE).forget("h1")
    assert "h1" not in [message.id for message in held(graph)["messages"]]
    as_if_never_heard(model, held(graph), KIND)
