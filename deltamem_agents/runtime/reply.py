"""A reply's text as it grows, split into reasoning, content and tool calls."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from deltamem_agents.runtime.text import held_back

_THINK, _THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"
_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*'
)


@dataclass(frozen=True)
class TextPart:
    """A piece of the reply's content."""

    text: str


@dataclass(frozen=True)
class ReasoningPart:
    """A piece of the reply's reasoning."""

    text: str


@dataclass(frozen=True)
class CallPart:
    """A piece of a tool call; the first one of a call has its id and name.

    Args:
        index: number of the call within the reply.
        arguments: a piece of the JSON text of the arguments.
        id: the call's id, or None in later pieces.
        name: the tool's name, or None in later pieces.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Part = TextPart | ReasoningPart | CallPart


class _Nesting:
    """Finds the end of a JSON value that arrives in pieces."""

    def __init__(self) -> None:
        self.depth, self.quoted, self.escaped, self.over = 0, False, False, False

    def take(self, text: str) -> int:
        """Return how many characters of `text` belong to the value."""
        for place, letter in enumerate(text):
            if self.over:
                return place
            if self.escaped:
                self.escaped = False
            elif self.quoted:
                self.escaped, self.quoted = letter == "\\", letter != '"'
            elif letter == '"':
                self.quoted = True
            elif letter in "{[":
                self.depth += 1
            elif letter in "}]":
                self.depth -= 1
                self.over = self.depth <= 0
        return len(text)


@dataclass
class _Call:
    id: str
    raw: str = ""
    name: str | None = None
    arguments: str = ""
    seen: int = 0  # characters of raw that were passed on as arguments, or skipped as the head
    scan: _Nesting = field(default_factory=_Nesting)


class ReplyParser:
    """Splits a reply that arrives in pieces.

    Args:
        reasons: whether the template knows `<think>`.
        thinking: whether the generation prompt has opened a thought already.
        tools: whether tool calls are looked for; otherwise their text is content.
        parse: turns the text of a call's arguments into a value; a ValueError or anything but a
            dict makes the call an invalid one.
    """

    def __init__(
        self,
        *,
        reasons: bool = False,
        thinking: bool = False,
        tools: bool = True,
        parse: Callable[[str], Any] = json.loads,
    ) -> None:
        self._parse = parse
        self._mode = "think" if thinking else "text"
        self._reasons, self._tools = reasons, tools
        self._held = ""
        self._content, self._reasoning = "", ""
        self._calls: list[_Call] = []
        self._thought = False  # a thought has ended
        self._fresh = True  # nothing but white space so far: a thought may still begin

    @property
    def in_reasoning(self) -> bool:
        """Whether the last piece ended within a thought."""
        return self._mode == "think"

    def push(self, text: str) -> list[Part]:
        """Add text; return the pieces that are now certain."""
        self._held += text
        return list(self._parts(final=False))

    def flush(self) -> list[Part]:
        """The text is over; return what was held back."""
        return list(self._parts(final=True))

    def message(self) -> dict[str, Any]:
        """The reply as a message dict of role assistant; call after `flush`."""
        message: dict[str, Any] = {"role": "assistant", "content": self._content}
        if self._reasoning.strip("\n"):
            message["reasoning_content"] = self._reasoning.strip("\n")
        calls, invalid = [], []
        for call in self._calls:
            arguments = self._arguments(call.arguments)
            if arguments is None:
                invalid.append({"id": call.id, "name": call.name, "args": call.arguments})
            else:
                function = {"name": call.name, "arguments": arguments}
                calls.append({"id": call.id, "function": function})
        if calls:
            message["tool_calls"] = calls
        if invalid:
            message["invalid_tool_calls"] = invalid
        return message

    def _parts(self, final: bool) -> Iterator[Part]:
        progress = True
        while progress:
            mode, held = self._mode, self._held
            step = {"text": self._text, "think": self._think, "call": self._call}[mode]
            yield from step(final)
            progress = self._mode != mode or (bool(self._held) and self._held != held and not final)

    def _text(self, final: bool) -> Iterator[Part]:
        if self._reasons and self._fresh:
            stripped = self._held.lstrip()
            if stripped.startswith(_THINK):
                self._held, self._mode = stripped[len(_THINK) :], "think"
                return
            if _THINK.startswith(stripped) and not final:
                return
        place = self._held.find(_CALL) if self._tools else -1
        if place >= 0:
            before = self._held[:place]
            # The template puts one line break between content and call; it is not content.
            yield from self._emit(before[:-1] if before.endswith("\n") else before)
            self._held, self._mode = self._held[place + len(_CALL) :], "call"
            self._calls.append(_Call(f"call_{uuid.uuid4().hex[:24]}"))
            return
        marks = (_CALL, "\n" + _CALL) if self._tools else ()
        cut = len(self._held) - (0 if final else held_back(self._held, marks))
        shown, self._held = self._held[:cut], self._held[cut:]
        yield from self._emit(shown)

    def _emit(self, text: str) -> Iterator[Part]:
        if self._thought and not self._content:
            text = text.lstrip("\n")
        if text and not (self._calls and not text.strip()):  # white space between calls is template
            self._fresh = False
            self._content += text
            yield TextPart(text)

    def _think(self, final: bool) -> Iterator[Part]:
        place = self._held.find(_THOUGHT)
        keep = 0 if final else held_back(self._held, (_THOUGHT,))
        cut = place if place >= 0 else len(self._held) - keep
        shown = self._held[:cut].rstrip("\n")
        if place >= 0:
            self._held = self._held[len(_THOUGHT) + place :]
            self._mode, self._fresh, self._thought = "text", False, True
        else:
            # Line breaks at the end wait: before the closing mark they are template.
            self._held = "" if final else self._held[len(shown) :]
        if not self._reasoning:
            shown = shown.lstrip("\n")
        if shown:
            self._reasoning += shown
            yield ReasoningPart(shown)

    def _call(self, final: bool) -> Iterator[Part]:
        call, index = self._calls[-1], len(self._calls) - 1
        place = self._held.find(_CALLED)
        cut = (
            place
            if place >= 0
            else len(self._held) - (0 if final else held_back(self._held, (_CALLED,)))
        )
        call.raw, self._held = call.raw + self._held[:cut], self._held[cut:]
        if place >= 0:
            self._held, self._mode = self._held[len(_CALLED) :], "text"
        if call.name is None and (head := _HEAD.match(call.raw)):
            call.name, call.seen = json.loads(head.group(1)), head.end()
            yield CallPart(index, "", call.id, call.name)
        if call.name is not None:
            rest = call.raw[call.seen :]
            if not call.arguments:
                rest = rest.lstrip()
                call.seen = len(call.raw) - len(rest)
            length = call.scan.take(rest)
            call.seen += len(rest)
            call.arguments += rest[:length]
            if rest[:length]:
                yield CallPart(index, rest[:length])
        elif place >= 0 or final:
            # No tool is named: the whole of it is passed on, in a form that is no arguments' dict.
            raw = call.raw.strip()
            call.arguments = raw if self._arguments(raw) is None else json.dumps(raw)
            yield CallPart(index, call.arguments, call.id)

    def _arguments(self, text: str) -> dict[str, Any] | None:
        try:
            value = self._parse(text) if text else {}
        except ValueError:
            return None
        return value if isinstance(value, dict) else None
