"""A node's model in other runnables, and a node that `Send` tells what to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send

from deltamem_agents.errors import ConfigError
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.state import MemoryNodeState

WHERE: Any = {"configurable": {"thread_id": "t"}}


def graph_of(model: Any, **options: Any) -> Any:
    builder = StateGraph(MessagesState).add_node("chat", memory_node(model, **options))
    return builder.add_edge(START, "chat").compile(checkpointer=InMemorySaver())


def say(graph: Any, text: str, where: Any = WHERE) -> Any:
    graph.invoke({"messages": [HumanMessage(text, id=text)]}, where)
    return graph.get_state(where).values


class Down(FakeListChatModel):
    def _call(self, *_: Any, **__: Any) -> str:
        raise ConnectionError("planned")


def wrapped(model: Any) -> dict[str, Any]:
    """The model in all that hands it the messages."""
    hosted = Down(responses=["hosted"])
    field = ConfigurableField(id="llm")
    return {
        "retries": model.with_retry(),
        "a step after it": model | RunnableLambda(lambda reply: reply),
        "the default of alternatives": model.configurable_alternatives(field, hosted=hosted),
        "a fallback": hosted.with_fallbacks([Down(responses=["other"]), model]),
        "bound, within fallbacks, configurable": hosted.with_fallbacks(
            [model.bind_tools([]).with_retry().configurable_alternatives(field, hosted=hosted)]
        ),
    }


def test_a_wrapped_model_has_its_memory(counting: Any, heard: Any) -> None:
    for name, model in wrapped(counting()).items():
        graph = graph_of(model)
        say(graph, "a")
        state = say(graph, "b")
        assert state["delta_memory"] == heard(state["messages"]), name


def test_the_config_chooses_the_model(counting: Any, heard: Any) -> None:
    hosted = FakeListChatModel(responses=["hosted"])
    model = hosted.configurable_alternatives(ConfigurableField(id="llm"), ours=counting())
    graph = graph_of(model)
    assert "delta_memory" not in say(graph, "a")
    state = say(graph, "b", {"configurable": {"thread_id": "t", "llm": "ours"}})
    assert state["delta_memory"] == heard(state["messages"])
    assert say(graph, "c")["delta_memory"] == state["delta_memory"], "the other never sees it"


def test_a_model_that_cannot_be_given_its_memory_is_refused(counting: Any) -> None:
    model = counting()
    prompt = ChatPromptTemplate.from_messages([("system", "Be kind."), MessagesPlaceholder("m")])
    hosted = FakeListChatModel(responses=["hosted"])
    for hidden in (
        RunnableLambda(lambda messages: {"m": messages}) | prompt | model,
        RunnableParallel(one=model, other=hosted),
        RunnableLambda(lambda messages: [model.invoke(messages)][-1]),
        hosted.configurable_alternatives(ConfigurableField(id="llm"), ours=prompt | model),
    ):
        with pytest.raises(ConfigError, match="system_prompt="):
            memory_node(hidden)
    memory_node(prompt | hosted)
    with pytest.raises(ConfigError, match="Parse the message in a node after it"):
        say(graph_of(model | StrOutputParser()), "a")


def sending(model: Any, saver: Any) -> Any:
    """A task goes to the node by itself, by `Send`; with the memory where it is told to."""

    def route(state: MemoryNodeState) -> Any:
        said = state["messages"][-1].text
        if not said.startswith("task"):
            return "chat"
        given = {"delta_memory": state["delta_memory"]} if "with" in said else {}
        return [Send("chat", {"messages": [HumanMessage(f"sub {said}")], **given})]

    builder = StateGraph(MessagesState).add_node("chat", memory_node(model))
    builder.add_conditional_edges(START, route, ["chat"])
    return builder.compile(checkpointer=saver)


def test_a_sent_task_leaves_the_threads_memory(tiny: Any, file_saver: Any) -> None:
    model = tiny()
    graph, other = sending(model, file_saver), graph_of(model)
    for number in range(6):
        before = say(graph, f"fact {number}")["delta_memory"]
    assert before.ledger.evicted_count > 0
    state = say(graph, "task 1")
    assert isinstance(state["messages"][-1], AIMessage)
    assert state["delta_memory"] == before
    state = say(graph, "after")
    other.update_state(WHERE, {"messages": state["messages"][:-1]}, as_node=START)
    other.invoke(None, WHERE)
    now, fresh = state["delta_memory"], other.get_state(WHERE).values["delta_memory"]
    assert now.ledger == fresh.ledger
    np.testing.assert_allclose(now.state, fresh.state, atol=1e-5, rtol=0)
    state = say(graph, "task with the memory")
    assert state["delta_memory"].tokens_written > now.tokens_written
