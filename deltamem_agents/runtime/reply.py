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
_CUT = "The reply ended within this call, for example at max_tokens: it is not to be run."
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
        self.open = ""  # the brackets that are due, the innermost last
        self.quoted, self.escaped, self.over = False, False, False

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
                self.open += "}" if letter == "{" else "]"
            elif letter in "}]":
                self.open = self.open[:-1]
                self.over = not self.open
        return len(text)

    def breaking(self) -> str:
        """Text after which not even a reader that completes what is cut takes it for a value."""
        end = "\\" * self.escaped + '"' * self.quoted
        return end + ("}" if self.open.endswith("]") else "]")


@dataclass
class _Call:
    id: str
    raw: str = ""
    name: str | None = None
    arguments: str = ""
    seen: int = 0  # characters of raw that were passed on as arguments, or skipped as the head
    scan: _Nesting = field(default_factory=_Nesting)
    cut: bool = False


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
        self._gap: str | None = None  # white space since a call, until text follows
        self._whole: int | None = None  # this many calls are, where the reply was cut

    @property
    def in_reasoning(self) -> bool:
        """Whether the last piece ended within a thought."""
        return self._mode == "think"

    @property
    def in_call(self) -> bool:
        """Whether the last piece ended within a call."""
        return self._mode == "call"

    def cut(self) -> None:
        """From here on the reply is not what the model wanted to say: calls are none to run."""
        self._whole = len(self._calls) - self.in_call

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
                wrong = {"error": _CUT} if call.cut else {}
                invalid.append(
                    {"id": call.id, "name": call.name, "args": call.arguments, **wrong}
                )
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
            self._gap = ""
            return
        marks = (_CALL, "\n" + _CALL) if self._tools else ()
        cut = len(self._held) - (0 if final else held_back(self._held, marks))
        shown, self._held = self._held[:cut], self._held[cut:]
        yield from self._emit(shown)

    def _emit(self, text: str) -> Iterator[Part]:
        if self._gap is not None:  # white space behind a call is template, unless text follows
            text, self._gap = self._gap + text, None
            if not text.strip():
                self._gap = text
                return
            text = text if self._content else text.lstrip()
        if self._thought and not self._content:
            text = text.lstrip("\n")
        if text:
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
        if place >= 0 or final:
            yield from self._break(call, index, closed=place >= 0)

    def _break(self, call: _Call, index: int, closed: bool) -> Iterator[Part]:
        """Break the arguments of a call that was cut, so that nobody completes and runs it."""
        stray = self._whole is not None and index >= self._whole
        call.cut = stray or not (closed or call.scan.over)
        if call.cut and self._arguments(call.arguments) is not None:
            end = call.scan.breaking()
            call.arguments += end
            yield CallPart(index, end)

    def _arguments(self, text: str) -> dict[str, Any] | None:
        try:
            value = self._parse(text) if text else {}
        except ValueError:
            return None
        return value if isinstance(value, dict) else None
