"""A hosted model in the same agent: it is called as it would be alone, and the memory is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelFallbackMiddleware,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import Field

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.chat.tools import tool_schemas
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory

WHERE: Any = {"configurable": {"thread_id": "t"}}
BOUND = {"tools": ["look"], "tool_choice": None}  # what create_agent binds to any model


@tool
def look(place: str) -> str:
    """Look somewhere."""
    return f"seen {place}"


class Hosted(BaseChatModel):
    """A model of another maker: writes down what it is sent, and answers from a script."""

    answers: list[AIMessage] = Field(default_factory=list)
    sent: list[tuple[list[BaseMessage], dict[str, Any]]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "hosted"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self.bind(tools=[one.name for one in tools], **options)

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any
    ) -> ChatResult:
        self.sent.append((list(messages), options))
        answer = self.answers[len(self.sent) - 1].model_copy()
        return ChatResult(generations=[ChatGeneration(message=answer)])


class Chooses(AgentMiddleware[Any, Any, Any]):
    """Sends what asks for help to another model; may fail the own one once."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.other = other

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        asked = [m for m in request.messages if m.type == "human"][-1].text
        return handler(request.override(model=self.other) if "help" in asked else request)


class Fails(AgentMiddleware[Any, Any, Any]):
    """Lets every call of a δ-mem model fail, after it was made, while it is told to."""

    now = False

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        response = handler(request)
        if self.now and not isinstance(request.model, Hosted):
            raise ConnectionError("planned")
        return response


def say(graph: Any, text: str) -> Any:
    return graph.invoke({"messages": [("user", text)]}, WHERE)


def check(graph: Any, model: Any, tools: Any = (look,)) -> None:
    """All but the last messages of the other model are in the memory, each once."""
    now = graph.get_state(WHERE).values
    held, said = now["delta_memory"], now["messages"]
    heard = held.ledger.evicted_count + len(held.ledger.visible)
    schemas = tool_schemas(tools) or None
    told = [to_dict(message) for message in [SystemMessage("Be short."), *said[:heard]]]
    fresh = model.engine.read(None, told, tools=schemas)
    assert held.ledger == fresh.ledger
    np.testing.assert_allclose(held.state, fresh.state, atol=1e-5, rtol=0)


def agent(model: Any, saver: Any, *middleware: Any) -> Any:
    return create_agent(
        model,
        tools=[look],
        system_prompt="Be short.",
        middleware=[*middleware, DeltaMemMiddleware()],
        checkpointer=saver,
    )


def test_a_hosted_model_for_some_turns(tiny: Any, file_saver: Any) -> None:
    model = tiny(context_window=900, low_water=600)
    call = {"name": "look", "args": {"place": "there"}, "id": "c1"}
    answers = [AIMessage("", tool_calls=[call]), AIMessage("found"), AIMessage("gladly")]
    hosted = Hosted(answers=answers)
    graph = agent(model, file_saver, Chooses(hosted))
    say(graph, "hello")
    before = graph.get_state(WHERE).values["delta_memory"]
    say(graph, "help me look")
    now = graph.get_state(WHERE).values
    assert now["delta_memory"] == before, "another model writes nothing"
    assert [m.type for m in now["messages"]][2:] == ["human", "ai", "tool", "ai"]
    for (messages, options), upto in zip(hosted.sent, (3, 5), strict=True):
        assert messages == [SystemMessage("Be short."), *now["messages"][:upto]], "as it stands"
        assert options == BOUND, "and nothing beside it"
    say(graph, "what was that?")
    check(graph, model)
    held = graph.get_state(WHERE).values
    visible = held["delta_memory"].ledger
    assert visible.evicted_count + len(visible.visible) == len(held["messages"]) == 8
    say(graph, "help again")
    say(graph, "thanks")
    check(graph, model)
    report = ThreadMemory(graph, WHERE).forget(held["messages"][2].id)
    assert len(report.message_ids) == 4, "the other model's turn is forgotten as any"
    check(graph, model)


def test_a_fallback_is_not_touched_and_read_later(tiny: Any, file_saver: Any) -> None:
    model = tiny(context_window=900, low_water=600)
    hosted = Hosted(answers=[AIMessage("from afar"), AIMessage("once more")])
    fails = Fails()
    graph = agent(model, file_saver, ModelFallbackMiddleware(hosted), fails)
    say(graph, "one")
    before = graph.get_state(WHERE).values["delta_memory"]
    fails.now = True
    assert say(graph, "two")["messages"][-1].text == "from afar"
    now = graph.get_state(WHERE).values
    assert now["delta_memory"] == before, "the failed call left nothing"
    messages, options = hosted.sent[0]
    assert messages == [SystemMessage("Be short."), *now["messages"][:3]]
    assert options == BOUND
    say(graph, "three")
    fails.now = False
    say(graph, "four")
    assert len(graph.get_state(WHERE).values["messages"]) == 8
    check(graph, model)


def test_a_hosted_model_for_one_node(tiny: Any, file_saver: Any) -> None:
    model = tiny(context_window=900, low_water=600)
    hosted = Hosted(answers=[AIMessage("checked"), AIMessage("checked again")])
    builder = StateGraph(MessagesState)
    builder.add_node("answer", memory_node(model, system_prompt="Be short."))
    builder.add_node("check", memory_node(hosted, system_prompt="Check."))
    builder.add_edge(START, "answer").add_edge("answer", "check")
    graph = builder.compile(checkpointer=file_saver)
    for number, text in enumerate(("one", "two"), 1):
        said = say(graph, text)["messages"]
        messages, options = hosted.sent[-1]
        assert (messages, options) == ([SystemMessage("Check."), *said[:-1]], {})
        held = graph.get_state(WHERE).values["delta_memory"].ledger
        assert held.evicted_count + len(held.visible) == 3 * number - 1, "read at the next call"
        check(graph, model, ())


@pytest.mark.parametrize("what", ["an earlier turn", "the turn that waits"])
def test_forgetting_while_a_person_is_asked(tiny: Any, file_saver: Any, what: str) -> None:
    model = tiny(context_window=900, low_water=600)
    call = {"name": "look", "args": {"place": "there"}, "id": "c1"}
    hosted = Hosted(answers=[AIMessage("", tool_calls=[call]), AIMessage("found")])
    people = HumanInTheLoopMiddleware({"look": True})
    graph = agent(model, file_saver, people, Chooses(hosted))
    say(graph, "my badge is 4471")
    say(graph, "and more")
    assert say(graph, "help me look")["__interrupt__"]
    said = graph.get_state(WHERE).values["messages"]
    gone = said[0] if what == "an earlier turn" else said[4]
    ThreadMemory(graph, WHERE).forget(gone.id)
    check(graph, model)
    if what == "an earlier turn":
        graph.invoke(Command(resume={"decisions": [{"type": "approve"}]}), WHERE)
        said = graph.get_state(WHERE).values["messages"]
        assert [m.text for m in said[-2:]] == ["seen there", "found"], "the run goes on"
    else:
        assert not graph.get_state(WHERE).next, "what waited is gone with its turn"
    say(graph, "thanks")
    check(graph, model)
    assert not [m for m in graph.get_state(WHERE).values["messages"] if m.id == gone.id]
