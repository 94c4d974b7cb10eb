"""Lone surrogates survive wherever LangGraph stores text; where they cannot, they are refused."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Interrupt, Send, interrupt

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import SerializationError
from tests.checkpoint.helpers import config, put, values_of


@dataclass(slots=True)
class Slotted:
    text: str
    more: Any = None


@pytest.mark.parametrize(
    "value",
    [
        Interrupt(value="bad\ud800 ok?", id="i"),
        Interrupt(value={"k": ["q\ud800?"]}, id="i"),
        Send("node", {"a": "bad\udcff?"}),
        Command(resume="bad\ud800?", goto=[Send("node", "also \ud800")]),
        deque(["bad\ud800?"]),
        [Slotted("bad\ud800?", Slotted("\udfff"))],
        ("what?", ValueError("bad\ud800?")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_lone_surrogates_survive_in_whatever_the_graph_stores(url: str, value: Any) -> None:
    with SQLAlchemySaver(url, allowed=[Slotted]) as saver:
        place = put(saver, config(), {"x": value})
        saver.put_writes(place, [("__interrupt__", (value,))], "task")
        read = values_of(saver, place)["x"]
        if isinstance(value, tuple):
            assert read == ["what?", repr(value[1])]
            return
        assert read == value
        assert type(read) is type(value)
        found = saver.get_tuple(place)
        assert found is not None
        assert found.pending_writes == [("task", "__interrupt__", [value])]


class Said(TypedDict):
    said: str


def test_an_interrupt_asks_what_it_asked_before_it_was_stored(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        builder = StateGraph(Said)
        builder.add_node("ask", lambda state: {"said": interrupt("the tool said: bad\ud800?")})
        builder.add_edge(START, "ask")
        graph = builder.compile(checkpointer=saver)
        live = graph.invoke({"said": ""}, config())["__interrupt__"]
        assert graph.get_state(config()).interrupts == tuple(live)


class Colour(Enum):
    RED = "r\ud800?"


def _deep(text: str) -> Any:
    for _ in range(120):
        text = [text]  # type: ignore[assignment]
    return text


@pytest.mark.parametrize(
    "value",
    [_deep("b\ud800?"), Path("a\ud800?"), Colour.RED, re.compile("a\ud800?")],
    ids=["deep", "path", "enum", "pattern"],
)
def test_a_lone_surrogate_out_of_reach_is_refused(url: str, value: Any) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": "before"})
        with pytest.raises(SerializationError, match="lone surrogate"):
            put(saver, place, {"x": value})
        with pytest.raises(SerializationError, match="lone surrogate"):
            saver.put_writes(place, [("x", value)], "task")
        assert values_of(saver, config()) == {"x": "before"}


def test_deep_values_and_paths_with_question_marks_are_stored(url: str) -> None:
    values = {"deep": _deep("why?"), "path": Path("a?"), "pattern": re.compile("a?")}
    with SQLAlchemySaver(url) as saver:
        assert values_of(saver, put(saver, config(), values)) == values
