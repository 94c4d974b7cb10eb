"""Edits after a beginning has left: the rebuild goes on from a memory that still has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware, wrap_model_call
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.operators import ThreadMemory

WHERE: Any = {"configurable": {"thread_id": "t"}}


def values(graph: Any) -> dict[str, Any]:
    return dict(graph.get_state(WHERE).values)


def say(graph: Any, number: int) -> Any:
    """Tell a fact; returns the memory afterwards."""
    graph.invoke({"messages": [HumanMessage(f"fact {number}", id=f"h{number}")]}, WHERE)
    return values(graph)["delta_memory"]


def agent(model: Any, *others: Any) -> Any:
    middleware = [*others, DeltaMemMiddleware()]
    return create_agent(model, tools=[], middleware=middleware, checkpointer=InMemorySaver())


def is_read_on(model: Any, graph: Any, before: Any) -> None:
    """The thread's memory is `before` that went on reading the thread's messages."""
    memory, messages = values(graph)["delta_memory"], values(graph)["messages"]
    expected = model.engine.read(before, [to_dict(message) for message in messages])
    assert memory.ledger == expected.ledger
    np.testing.assert_allclose(memory.state, expected.state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("edited", [4, 3, 2])
def test_an_edit_after_a_trim_keeps_what_was_trimmed(tiny: Any, edited: int) -> None:
    model = tiny(context_window=900, low_water=500, max_tokens=4)
    graph = agent(model)
    course = [say(graph, number) for number in range(4)]
    trimmed = [RemoveMessage(str(message.id)) for message in values(graph)["messages"][:4]]
    graph.update_state(WHERE, {"messages": trimmed})
    course.append(say(graph, 4))
    assert course[-1].ledger.evicted_count == 4
    graph.update_state(WHERE, {"messages": [HumanMessage("another text", id=f"h{edited}")]})
    after = say(graph, 5)
    assert after.ledger.evicted_count == 4, "only forget unlearns"
    is_read_on(model, graph, course[edited - 1])


@pytest.mark.parametrize("said", [False, True], ids=["edited again at once", "and said on"])
def test_a_text_that_was_corrected_before_it_was_trimmed_does_not_come_back(
    tiny: Any, said: bool
) -> None:
    model = tiny(context_window=900, low_water=500, max_tokens=4)
    graph = agent(model)
    say(graph, 0)
    say(graph, 1)
    graph.update_state(WHERE, {"messages": [HumanMessage("corrected", id="h0")]})
    say(graph, 2)
    (first, *_) = values(graph)["messages"]
    assert first.text == "corrected"
    graph.update_state(WHERE, {"messages": [RemoveMessage("h0")]})
    if said:
        memory = say(graph, 3)
        assert memory.ledger.evicted_count == 1
    graph.update_state(WHERE, {"messages": [HumanMessage("another", id="h2")]})
    after = say(graph, 4)
    is_read_on(model, graph, None)
    assert after.ledger.evicted_count == 0, "no memory has read the corrected text alone"


def test_what_is_put_in_place_of_a_beginning_is_no_eviction(tiny: Any) -> None:
    model = tiny(context_window=900, low_water=500, max_tokens=4)
    graph = agent(model)
    for number in range(3):
        say(graph, number)
    (_, _, *rest) = values(graph)["messages"]
    again = [RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("anew"), *rest]
    graph.update_state(WHERE, {"messages": again})
    say(graph, 3)
    is_read_on(model, graph, None)


def test_an_edited_beginning_is_not_taken_for_one_that_left(tiny: Any) -> None:
    """A checkpoint may hold messages that its memory has not read yet: an edit, a new question."""
    model = tiny(context_window=900, low_water=500, max_tokens=4)
    graph = agent(model)
    ThreadMemory(graph, WHERE).ingest([HumanMessage("fact 0", id="h0")])
    graph.update_state(WHERE, {"messages": [HumanMessage("another", id="h0")]})
    say(graph, 1)
    (edited, *gone) = values(graph)["messages"]
    assert edited.text == "another"
    removed = [RemoveMessage(str(message.id)) for message in gone]
    graph.update_state(WHERE, {"messages": removed}, as_node="model")
    say(graph, 2)
    is_read_on(model, graph, None)


def test_what_is_removed_behind_another_message_has_not_left(tiny: Any) -> None:
    model = tiny(context_window=900, low_water=500, max_tokens=4)
    graph = agent(model)
    ThreadMemory(graph, WHERE).ingest([HumanMessage("fact 0", id="h0")])
    (told,) = values(graph)["messages"]
    inserted = [RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("before it", id="new"), told]
    graph.update_state(WHERE, {"messages": inserted}, as_node="model")
    say(graph, 1)
    graph.update_state(WHERE, {"messages": [RemoveMessage("h0")]}, as_node="model")
    say(graph, 2)
    is_read_on(model, graph, None)


def test_summaries_beside_a_prompt_that_changes_for_one_call(tiny: Any) -> None:
    @wrap_model_call
    def dated(request: Any, handler: Any) -> Any:
        last = request.messages[-1]
        shown = last.model_copy(update={"content": f"{last.text} (Monday)"})
        return handler(request.override(messages=[*request.messages[:-1], shown]))

    summarise = SummarizationMiddleware(
        FakeListChatModel(responses=["they spoke"]), trigger=("messages", 8), keep=("messages", 4)
    )
    graph = agent(tiny(context_window=900, low_water=500, max_tokens=4), summarise, dated)
    evicted = [say(graph, number).ledger.evicted_count for number in range(7)]
    assert evicted == sorted(evicted), "nothing that was summarised is unlearned"
    assert evicted[-1] > evicted[4] > 0
