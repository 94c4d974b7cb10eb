"""Copies of what is forgotten: histories that were resent, summaries, channels, runs' metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import AgentMiddleware, SummarizationMiddleware
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.load import dumpd
from langchain_core.messages import BaseMessage, HumanMessage, messages_to_dict
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.graph.forms import Name
from deltamem_agents.graph.middleware import DeltaMemMiddleware
from deltamem_agents.graph.nodes import memory_node
from deltamem_agents.graph.operators import ThreadMemory
from deltamem_agents.graph.scrub import mentions, scrub
from deltamem_agents.graph.state import MemoryAgentState
from tests.graph.test_graph_changes import SECRET, WHERE, no_bytes, say, told_nowhere

CAT = "my cat is called Whiskers"
ROLES = {"human": "user", "ai": "assistant"}
GONE, STAYS = HumanMessage("a secret", id="gone"), HumanMessage("plain", id="stays")
FORMS: dict[str, Callable[[BaseMessage], Any]] = {
    "role": lambda m: {"role": ROLES[m.type], "content": m.text, "id": m.id},
    "type": lambda m: {"type": m.type, "content": [{"type": "text", "text": m.text}], "id": m.id},
    "dumped": lambda m: m.model_dump(),
    "constructor": dumpd,
    "stored": lambda m: messages_to_dict([m])[0],
}
NAMELESS: dict[str, Callable[[BaseMessage], Any]] = {
    "pair": lambda m: (ROLES[m.type], m.text),
    "stored pair": lambda m: [m.type, m.text],
    "mapping": lambda m: {"role": ROLES[m.type], "content": m.text},
    "blocks": lambda m: {"type": m.type, "content": [{"type": "text", "text": m.text}]},
    "message": lambda m: m.model_copy(update={"id": None}),
}


@pytest.mark.parametrize("form", [*FORMS, *NAMELESS])
def test_messages_that_are_still_as_they_were_told_are_found(form: str) -> None:
    told = {**FORMS, **NAMELESS}[form]
    names: set[Name] = {"gone", ("human", "a secret")} if form in NAMELESS else {"gone"}
    value = {"messages": [told(GONE), told(STAYS)], "task": Send("node", told(GONE))}
    assert mentions(value, names)
    assert scrub(value, names) == {"messages": [told(STAYS)]}
    assert not mentions([told(STAYS)], names)


@pytest.mark.parametrize(
    "value",
    [
        {"id": "gone", "title": "a ticket"},
        {"id": "gone", "type": "ticket", "content": "a secret"},
        {"role": "user"},
        {"role": "user", "content": 3},
        ["user", 3],
        ["secret", "a secret"],
        ["user", "a secret", "x"],
    ],
    ids=repr,
)
def test_what_is_no_message_is_left(value: Any) -> None:
    assert scrub([value], {"gone", ("human", "a secret")}) == [value]


def agent(model: Any, saver: Any, *middleware: Any, **options: Any) -> Any:
    create: Callable[..., Any] = create_agent
    stack = [*middleware, DeltaMemMiddleware()]
    return create(model, tools=[], middleware=stack, checkpointer=saver, **options)


@pytest.fixture
def model(tiny: Any) -> Any:
    return tiny(context_window=480, low_water=300)


@pytest.mark.parametrize("form", ["role", "type", "dumped", "constructor"])
def test_a_history_that_was_resent_does_not_bring_it_back(
    model: Any, tmp_path: Path, form: str
) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = agent(model, saver)
        badge = say(graph, f"my badge is {SECRET}")[0].id
        held = say(graph, "two")
        told = [FORMS[form](message) for message in [*held, HumanMessage("and?", id="3")]]
        graph.invoke({"messages": told}, WHERE)
        assert ThreadMemory(graph, WHERE).forget(badge).purged
        told_nowhere(saver)
        no_bytes(tmp_path)
        inputs = [
            one for one in graph.get_state_history(WHERE) if one.metadata["source"] == "input"
        ]
        again = graph.invoke(None, inputs[0].config)["messages"]
        assert [m.text for m in again if m.type == "human"] == ["two", "and?"]


def test_copies_without_an_id_that_tasks_were_sent_go_too(model: Any, tmp_path: Path) -> None:
    def fan(state: Any) -> Any:
        told = [{"role": ROLES[m.type], "content": m.text} for m in state["messages"]]
        return [Send("work", {"messages": told})]

    builder: Any = StateGraph(MemoryAgentState).add_node("chat", memory_node(model))
    builder.add_node("work", lambda state: {}).add_edge(START, "chat")
    builder.add_conditional_edges("chat", fan, ["work"])
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = builder.compile(checkpointer=saver)
        said = say(graph, f"my badge is {SECRET}")
        say(graph, "two")
        assert ThreadMemory(graph, WHERE).forget(said[0].id).purged
        told_nowhere(saver)
        no_bytes(tmp_path)


class Noting(AgentMiddleware[Any, Any, Any]):
    """Keeps what was said last in a channel of its own."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    class Notes(AgentState[Any]):
        note: str

    state_schema = Notes

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"note": self.form.format(state["messages"][-1].text)}


def test_text_that_is_left_in_older_values_is_reported(model: Any, file_saver: Any) -> None:
    graph = agent(model, file_saver, Noting("noted: {}"))
    cat = say(graph, CAT)[0].id
    say(graph, "two")
    report = ThreadMemory(graph, WHERE).forget(cat)
    assert graph.get_state(WHERE).values["note"] == "noted: two"
    assert (report.channels, report.purged) == (("note",), False)


@pytest.mark.parametrize("text", ["yes", CAT])
def test_a_text_that_another_message_says_too_is_not_what_is_left(
    model: Any, file_saver: Any, text: str
) -> None:
    graph = agent(model, file_saver, Noting("{}"))
    first = say(graph, text)[0].id
    later = say(graph, text)[2].id
    report = ThreadMemory(graph, WHERE).forget(first)
    assert report.purged
    assert [one.message_id for one in report.repeats] == ([later] if text == CAT else [])


def test_a_message_that_quotes_it_is_reported(model: Any, file_saver: Any) -> None:
    graph = agent(model, file_saver)
    first = say(graph, CAT)[0].id
    later = say(graph, f"You heard that {CAT}, did you?")[2].id
    memory = ThreadMemory(graph, WHERE)
    report = memory.forget(first)
    assert [(one.message_id, one.value) for one in report.repeats] == [(later, CAT)]
    assert not report.purged


def test_metadata_of_a_run_that_say_it_are_reported(model: Any, file_saver: Any) -> None:
    graph = agent(model, file_saver)
    where = {**WHERE, "metadata": {"badge": SECRET, "kind": "chat"}}
    badge = say(graph, f"my badge is {SECRET}", where)[0].id
    say(graph, "two")
    report = ThreadMemory(graph, WHERE).forget(badge)
    assert (report.channels, report.purged) == (("metadata.badge",), False)


def summarising(model: Any, saver: Any) -> Any:
    said = [f"the cat is Whiskers, code {number}" for number in (1001, 1002, 1003)]
    writes: Any = SummarizationMiddleware(
        FakeListChatModel(responses=said), trigger=("messages", 8), keep=("messages", 3)
    )
    graph = agent(model, saver, writes)
    for number in range(10):
        text = CAT if number == 0 else f"fact {number}"
        graph.invoke({"messages": [HumanMessage(text, id=f"h{number}")]}, WHERE)
    return graph


def _summaries(graph: Any) -> set[str]:
    return {
        message.id
        for one in graph.get_state_history(WHERE)
        for message in one.values.get("messages", ())
        if message.additional_kwargs.get("lc_source") == "summarization"
    }


@pytest.mark.parametrize("mode", ["report", "forget"])
def test_summaries_that_were_written_from_it(model: Any, tmp_path: Path, mode: Any) -> None:
    with SQLAlchemySaver(tmp_path / "agent.db") as saver:
        graph = summarising(model, saver)
        written, held = _summaries(graph), graph.get_state(WHERE).values["messages"]
        assert len(written) > 1
        report = ThreadMemory(graph, WHERE).forget("h0", repeats=mode)
        if mode == "report":
            assert {one.message_id for one in report.repeats} == written
            assert {one.value for one in report.repeats} == {""}
            assert not report.purged
            return
        assert written <= set(report.message_ids)
        assert len(report.message_ids) == 2 + len(written), "no other turn goes"
        assert report.purged
        assert not _summaries(graph)
        assert graph.get_state(WHERE).values["messages"] == held[1:], "only the summary goes"
        for part in tmp_path.iterdir():
            assert b"Whiskers" not in part.read_bytes(), part.name


def test_a_summary_of_other_turns_stays(model: Any, file_saver: Any) -> None:
    graph = summarising(model, file_saver)
    report = ThreadMemory(graph, WHERE).forget("h9", repeats="forget")
    assert report.purged
    assert len(report.message_ids) == 2
    assert _summaries(graph)
