"""Messages in whole turns: what belongs together, what is forgotten together, what repeats it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage

Predicate = Callable[[BaseMessage], bool]


@dataclass(frozen=True)
class Repeat:
    """A later message that says again what was forgotten.

    Args:
        message_id: the message.
        value: what it repeats, as it stood in the forgotten turn; empty for a summary that was
            written from it.
        text: the message's text.
        namespace: of the agent inside the graph that holds it; empty for the graph itself.
    """

    message_id: str
    value: str
    text: str
    namespace: str = ""


def turns(messages: Sequence[AnyMessage]) -> list[list[AnyMessage]]:
    """Cut a conversation into turns: a user's message and all that answers it.

    Several user messages in a row are turns of their own; what stands before the first user
    message is a turn too.
    """
    result: list[list[AnyMessage]] = []
    for message in messages:
        if not result or isinstance(message, HumanMessage):
            result.append([message])
        else:
            result[-1].append(message)
    return result


def is_summary(message: BaseMessage) -> bool:
    """Whether LangChain's summarisation wrote this in the place of older messages."""
    return message.additional_kwargs.get("lc_source") == "summarization"


def _told(messages: Sequence[AnyMessage]) -> list[list[AnyMessage]]:
    """Turns, a summary apart: it has the form of a user's message, but nothing answers it."""
    return [
        part
        for turn in turns(messages)
        for part in ((turn[:1], turn[1:]) if is_summary(turn[0]) else (turn,))
        if part
    ]


def exchanges(messages: Sequence[AnyMessage]) -> list[list[AnyMessage]]:
    """Cut a conversation where an answer ends: user messages in a row are answered together."""
    result: list[list[AnyMessage]] = []
    for turn in _told(messages):
        last = result[-1][-1] if result else None
        if isinstance(last, HumanMessage) and not is_summary(last):
            result[-1] += turn
        else:
            result.append(turn)
    return result


def selected_turns(
    messages: Sequence[AnyMessage], chosen: Collection[str] | Predicate
) -> list[AnyMessage]:
    """All messages of the turns that hold a chosen message, in order."""
    choose = chosen if callable(chosen) else (lambda message: message.id in chosen)
    return [
        message
        for turn in _told(messages)
        if any(choose(message) for message in turn)
        for message in turn
    ]


def repeats(
    messages: Iterable[AnyMessage], values: Iterable[str], *, without: Collection[str]
) -> list[Repeat]:
    """The messages that hold one of the values as whole words, capitals apart.

    Args:
        messages: where to look.
        values: what to look for.
        without: ids of messages that are not looked at.
    """
    forms = [(value, whole(value)) for value in dict.fromkeys(values) if value.strip()]
    found: list[Repeat] = []
    for message in messages:
        if not message.id or message.id in without:
            continue
        said = said_by(message)
        found += [Repeat(message.id, value, said) for value, form in forms if form.search(said)]
    return found


def said_by(message: BaseMessage) -> str:
    """The message's text with the arguments of its tool calls, all in which a value can stand."""
    parts: list[str] = [str(message.text)]
    if isinstance(message, AIMessage):
        parts += [str(call["args"]) for call in message.tool_calls]
    if isinstance(message, ToolMessage) and message.artifact is not None:
        parts.append(str(message.artifact))
    return "\n".join(part for part in parts if part)


def whole(value: str) -> re.Pattern[str]:
    """Finds a value as whole words, capitals apart."""
    return re.compile(rf"(?<!\w){re.escape(value.strip())}(?!\w)", re.IGNORECASE)
