"""The conversation on the page: what is in the window, and what messages say and call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from deltamem_agents.inspect.talk import conversation_html


def course(messages: list[Any], visible: int) -> Any:
    ledger = SimpleNamespace(visible=tuple(range(visible)))
    last = SimpleNamespace(memory=SimpleNamespace(ledger=ledger))
    return SimpleNamespace(messages=messages, last=last)


def test_messages_that_left_the_window_are_said_to_be_gone() -> None:
    told = [HumanMessage("one"), AIMessage("two"), HumanMessage("three")]
    assert conversation_html(course(told, 1), None).count("gone from the window") == 2
    # Messages can have been removed from the thread that the memory's ledger still shows.
    assert conversation_html(course(told, 4), None).count("gone from the window") == 0


def test_text_beside_calls_keeps_both() -> None:
    call = {"name": "look", "args": {"at": "<door>"}, "id": "1", "type": "tool_call"}
    page = conversation_html(course([AIMessage("Wait.", tool_calls=[call])], 1), None)
    assert "Wait." in page
    assert "look" in page
    assert "&lt;door&gt;" in page
