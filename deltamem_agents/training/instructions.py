"""Conversations under a system prompt: what to say when nothing is known, and tools to call.

A *refusal* prompt gives a sentence of its own; asked about something never told, the assistant says
that sentence and not the usual one. A *tool* prompt lists functions in the template's format; asked
for what one of them gives, the assistant calls it with the value that the user named, and then
repeats the result. Half of the functions have names that are made up on the spot.

Held out of training: the last openings and bodies that a refusal is put together from, one in five
pairs of tool and value (by a hash), and the last way to ask for each tool.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from deltamem_agents.training.phrasing import phrasings
from deltamem_agents.training.subjects import capital, lexicon
from deltamem_agents.training.unheard import Unheard
from deltamem_agents.training.world import Split, Turn

UNSEEN = 4
_FEW_KINDS = ("integer", "integer", "name", "city", "codename")
_KINDS = (
    *_FEW_KINDS, "code", "service", "food", "colour", "animal", "job", "hobby", "drink",
    "instrument", "month", "day", "database", "language", "flower", "sport",
)  # fmt: skip


def refusal(chooser: random.Random, *, unseen: bool = False) -> str:
    """A refusal sentence; unseen ones have an opening and a body that training never had.

    Half of training's are words in any order, so that the sentence has to be read where it stands.
    """
    words, more = lexicon()["instructions"], phrasings()["instructions"]
    if not unseen and chooser.random() < 0.5:
        salad = chooser.choices(_words(), k=chooser.randint(2, 8))
        if chooser.random() < 0.4:
            salad[0] += ","  # as many an opening has
        return capital(" ".join(salad)) + "."
    parts = (
        words[name][-UNSEEN:] if unseen else words[name][:-UNSEEN] + more[name]
        for name in ("openings", "bodies")
    )
    return " ".join(chooser.choice(part) for part in parts)


@cache
def _words() -> list[str]:
    """Single words, those of the unseen sentences too, and those of the lists of values."""
    words, more = lexicon()["instructions"], phrasings()["instructions"]
    said = [part for name in ("openings", "bodies") for part in words[name] + more[name]]
    listed = [value for kind in ("animal", "colour", "food", "job") for value in _values(kind)]
    return sorted({word.strip(".,:") for text in said for word in text.split()}) + listed


def _values(kind: str) -> list[str]:
    values: list[str] = lexicon()["values"][kind]
    return values


def kept_out(tool: str, value: str) -> bool:
    """Whether training never has this tool with this value."""
    return zlib.crc32(f"{tool}|{value}".encode()) % 5 == 0


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool call as a chat message carries it."""
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


@dataclass(frozen=True)
class Tool:
    """A function and how it is asked for.

    Attributes:
        name: of the function.
        description: one sentence.
        parameter: name of its only parameter.
        kind: what kind of value it takes; "integer" for a number.
        result: pattern of what it gives.
        asked: patterns of what a user says.
    """

    name: str
    description: str
    parameter: str
    kind: str
    result: str
    asked: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        """The function as the template shows it."""
        kind = "integer" if self.kind == "integer" else "string"
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": {self.parameter: {"type": kind}},
                    "required": [self.parameter],
                },
            },
        }


def tools() -> tuple[Tool, ...]:
    """The functions that the lexicon names."""
    listed = lexicon()["instructions"]["tools"]
    return tuple(Tool(**{**entry, "asked": tuple(entry["asked"])}) for entry in listed)


@dataclass(frozen=True)
class Instruction:
    """The system prompt of a conversation.

    Attributes:
        text: what it says.
        tools: the functions it lists.
        refusal: the sentence it gives for what was never told; empty where it gives none.
        weighed: whether to answer counts as much as to refuse, where it gives a refusal.
    """

    text: str
    tools: tuple[Tool, ...] = ()
    refusal: str = ""
    weighed: bool = False

    def messages(self) -> list[dict[str, str]]:
        """The system prompt as a chat message."""
        return [{"role": "system", "content": self.text}]

    def schemas(self) -> list[dict[str, Any]]:
        """The functions as the template shows them."""
        return [tool.schema() for tool in self.tools]

    def obeyed(self, turn: Turn) -> Turn:
        """The turn as it goes under this prompt."""
        if not self.refusal:
            return turn
        if turn.kind == "question" and self.weighed:
            return replace(turn, kind="answer")
        if turn.kind != "unknown":
            return turn
        return replace(turn, assistant=self.refusal, kind="refusal")


@dataclass(frozen=True)
class ToolTurn(Turn):
    """The user asks for what a tool gives; the assistant calls it and repeats its result."""

    call: dict[str, Any] = field(default_factory=dict)
    result: str = ""

    def messages(self) -> list[dict[str, Any]]:
        """Question, call, result, answer."""
        return [
            {"role": "user", "content": self.user},
            {"role": "assistant", "content": "", "tool_calls": [self.call]},
            {"role": "tool", "content": self.result},
            {"role": "assistant", "content": self.assistant},
        ]


def _also(tool: Tool) -> tuple[str, ...]:
    """Training's further ways to ask for a tool."""
    more = phrasings()["instructions"]
    return tuple(more["asked"].get(tool.name, more["called"]))


class Instructor:
    """Draws system prompts and the turns that need them.

    Args:
        chooser: the generator of the conversation's world.
        split: "test" draws what training never has.
        thorough: made-up tools take values of every kind, and prompts are `weighed`.
        unheard: chooses the words of a request that are to be taken for words never heard.
    """

    def __init__(
        self, chooser: random.Random, split: Split = "train", *, thorough: bool = False,
        unheard: Unheard | None = None,
    ) -> None:  # fmt: skip
        self.random, self.split, self.thorough = chooser, split, thorough
        self.unheard = unheard or Unheard(chooser, 0.0)

    def instruction(self, most: int) -> Instruction:
        """A prompt with a refusal, with tools (1 to `most`), with both, or with neither."""
        offered = tuple(self._tools(self.random.randint(1, most))) if most else ()
        if self.random.random() < (0.6 if most else 0.15):
            return Instruction(self._prompt("plain"), offered, weighed=self.thorough)
        said = refusal(self.random, unseen=self.split == "test")
        text = self._prompt("refusing").replace("{r}", said)
        return Instruction(text, offered, said, self.thorough)

    def _prompt(self, kind: str) -> str:
        """A prompt of the lexicon, or, in two of three of training, one put together."""
        words, more = lexicon()["instructions"], phrasings()["instructions"]
        if self.split == "test" or self.random.random() < 0.33:
            return str(self.random.choice(words[kind]))
        plain = str(self.random.choice(words["plain"] + more["plain"]))
        if kind == "plain":
            return plain
        when, says = self.random.choice(more["whens"]), self.random.choice(more["says"])
        rule = capital(f"{when}, {says}")
        return f"{plain} {rule}" if self.random.random() < 0.5 else rule

    def _tools(self, count: int) -> Iterator[Tool]:
        names: set[str] = set()
        while len(names) < count:
            tool = self._made_up() if self.random.random() < 0.5 else self.random.choice(tools())
            if tool.name not in names:
                names.add(tool.name)
                yield tool

    def _made_up(self) -> Tool:
        """A function of a made-up name, which only the prompt knows."""
        choose, words = self.random.choice, lexicon()["instructions"]
        lists = (lexicon()["values"][kind] for kind in ("animal", "colour", "flower", "sport"))
        nouns = [noun for nouns in lists for noun in nouns if " " not in noun]
        name = f"{choose(words['verbs'])}_{choose(nouns)}"
        kind = choose(_KINDS if self.thorough else _FEW_KINDS)
        does = f"{choose(words['does'])} {choose(nouns)}."
        return Tool(name, does, choose(words["parameters"]), kind, "{n}", tuple(words["called"]))

    def turn(self, tool: Tool, *, alone: bool = False) -> ToolTurn:
        """Somebody asks for what the tool gives; in any words, if it is clear all the same.

        It is where the tool is named, or listed alone in the prompt; but for a service's status: a
        question about a service could be one about its facts.
        """
        value = self._value(tool)
        asked = tool.asked[-1:] if self.split == "test" else tool.asked[:-1] + _also(tool)
        text = self.random.choice(asked).format(v=value, f=tool.name) + self.random.choice("?.")
        unheard: tuple[str, ...] = ()
        if tool.name in text or (alone and tool.kind != "service"):
            text, unheard = self.unheard.asked(text, (value, tool.name))
        result = tool.result.format(
            n=self.random.randint(2, 99), m=self.random.randint(10, 59),
            w=self.random.choice(lexicon()["instructions"]["states"]),
        )  # fmt: skip
        argument = int(value) if tool.kind == "integer" else value
        return ToolTurn(
            capital(text), capital(result) + ".", "tool", (value,), (), unheard,
            call=call(tool.name, {tool.parameter: argument}), result=result,
        )  # fmt: skip

    def _value(self, tool: Tool) -> str:
        while True:
            value = self._drawn(tool.kind)
            if kept_out(tool.name, value) == (self.split == "test"):
                return value

    def _drawn(self, kind: str) -> str:
        if kind == "integer":
            return str(self.random.randint(0, 999))
        if kind == "code":
            letters = "".join(self.random.choice(lexicon()["values"]["letters"]) for _ in "ab")
            return f"{letters}-{self.random.randint(10, 9999)}"
        listed = lexicon()["services"] if kind == "service" else lexicon()["values"][kind]
        return str(self.random.choice(listed))
