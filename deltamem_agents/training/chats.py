"""Chat data: JSON lines with messages, checked where they are read.

A line is `{"messages": [...], "tools": [...]}`; `tools` may be missing, other keys are ignored. A
message is as in `runtime/messages.py`; an assistant's may carry `"weight"`: 0 is read and not
learnt from, anything above is the weight of its loss.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltamem_agents.errors import DataNotFoundError, FileFormatError, MessageError
from deltamem_agents.runtime.messages import normalise


@dataclass(frozen=True)
class Chat:
    """One conversation.

    Args:
        messages: in normalised form, without the system prompt.
        weights: for each message the weight of its loss; None where the data do not say.
        system: the system prompt, or None.
        tools: JSON schemas of the tools.
        name: where it comes from, for messages of errors.
    """

    messages: tuple[dict[str, Any], ...]
    weights: tuple[float | None, ...]
    system: dict[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    name: str = ""

    def answers(self, most: int) -> dict[int, float]:
        """Which messages are learnt from: index of the message -> weight.

        The last `most` of those whose weight is above 0; where no message has a weight, the last
        `most` replies.
        """
        if any(weight is not None for weight in self.weights):
            chosen = [(i, w) for i, w in enumerate(self.weights) if w]
            return dict(chosen[-most:])
        replies = [i for i, entry in enumerate(self.messages) if entry["role"] == "assistant"]
        return dict.fromkeys(replies[-most:], 1.0)


def read_chats(paths: Iterable[str | Path]) -> list[Chat]:
    """Read files of JSON lines.

    Raises:
        DataNotFoundError: there is no such file.
        FileFormatError: a line is no JSON object with messages, or nothing can be learnt from it.
        MessageError: a message is malformed. Both name file and line.
    """
    chats: list[Chat] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise DataNotFoundError(
                "training data are files of JSON lines",
                got=str(path),
                remedy="Check the path; `deltamem data build` makes such a file.",
            )
        before = len(chats)
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    chats.append(chat_from(_parsed(line, f"{path}:{number}"), f"{path}:{number}"))
        if len(chats) == before:
            raise FileFormatError(
                "a file of training data holds a conversation",
                got=str(path),
                remedy="Write one with `deltamem data build`, or leave the file out.",
            )
    return chats


def _parsed(line: str, name: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise FileFormatError(
            "each line of training data is a JSON object",
            got=f"{name}: {error}",
            remedy='Write one conversation a line: {"messages": [...]}.',
        ) from error


def chat_from(record: object, name: str = "") -> Chat:
    """Check one conversation.

    Args:
        record: as one line of a file.
        name: what it is called in messages of errors.

    Raises:
        FileFormatError, MessageError: see `read_chats`.
    """
    if not isinstance(record, Mapping) or not _listed(record.get("messages")):
        raise FileFormatError(
            'a conversation is {"messages": [...]} with at least one message',
            got=f"{name}: {record!r}",
            remedy="See docs/how-to/training.md for the format.",
        )
    given: Sequence[Mapping[str, Any]] = record["messages"]
    try:
        entries = normalise(given)
    except MessageError as error:
        raise MessageError(error.rule, got=f"{name}: {error.got!r}", remedy=error.remedy) from error
    leading = next((i for i, m in enumerate(given) if m["role"] != "system"), len(given))
    system = entries.pop(0) if leading else None
    weights = tuple(_weight(message, name) for message in given[leading:])
    chat = Chat(tuple(entries), weights, system, _tools(record, name), name)
    _check_order(chat)
    return chat


def _listed(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(one, Mapping) for one in value)
    )


def _weight(message: Mapping[str, Any], name: str) -> float | None:
    weight = message.get("weight")
    if weight is None:
        return None
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0 or message["role"] != "assistant":
        raise MessageError(
            "a weight is a number from 0 on, on a message of the assistant",
            got=f"{name}: {weight!r} on a message of {message['role']!r}",
            remedy="Give weights to replies alone, 0 for one that is not learnt from.",
        )
    return float(weight)


def _tools(record: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    tools = record.get("tools")
    if tools in (None, []):
        return ()
    if not _listed(tools):
        raise FileFormatError(
            "tools is a list of JSON schemas",
            got=f"{name}: {tools!r}",
            remedy="Give them as convert_to_openai_tool writes them.",
        )
    return tuple(record["tools"])


def _check_order(chat: Chat) -> None:
    """A conversation begins with a user and has a reply to learn from."""
    first = chat.messages[0]["role"] if chat.messages else "nothing"
    if first != "user":
        raise FileFormatError(
            "after the system prompt a conversation begins with the user",
            got=f"{chat.name}: {first}",
            remedy="Put a user message first.",
        )
    if not chat.answers(1):
        raise FileFormatError(
            "a conversation has a reply of the assistant that is learnt from",
            got=f"{chat.name}: {len(chat.messages)} messages",
            remedy="Add the reply, or give one a weight above 0.",
        )
