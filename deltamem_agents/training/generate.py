"""Made-up conversations as chat data: facts, revisions, tool results, talk, questions near and far.

What is told and asked comes from `world.py`, with its split: one in five (entity, attribute, value)
triples and the last phrasings of each list are drawn for "test" only. The same settings give the
same file. Each record also says about its questions what a test wants to know:

    {"messages": [...], "tools": [...],
     "about": {"split": "train", "answers": [{"message": 7, "kind": "question", "value": "Oslo",
                                              "distance": 4, "revised": false}]}}

`distance` is the number of messages since the value was told; of a "unknown" question, value and
distance are null. Only the answers to questions have a weight above 0.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltamem_agents.errors import ConfigError
from deltamem_agents.training.subjects import Subject, sentence
from deltamem_agents.training.values import Values
from deltamem_agents.training.world import Split, Turn, World

LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds what is on file about somebody or something.",
        "parameters": {
            "type": "object",
            "properties": {"subject": {"type": "string"}},
            "required": ["subject"],
        },
    },
}
_REQUESTS = {
    "train": ("look up {s}", "please find {s} for me", "check {s} in the records", "fetch {s}"),
    "test": ("could you dig up {s}", "see what we have on file for {s}"),
}


@dataclass(frozen=True)
class DataConfig:
    """What conversations are made of.

    Args:
        conversations: how many.
        seed: decides everything that is drawn.
        split: "train", or "test" for held-out combinations and phrasings.
        values: words from lists ("known"), made up on the spot ("invented"), or "all".
        facts: fewest and most subjects told.
        chats: most turns of talk among them.
        tail: most turns of talk between what was told and the questions at the end.
        far: share of the conversations that have such a tail.
        questions: most questions at the end.
        near: the chance that a fact is asked for right after it was told.
        unknown: share of the questions at the end about what was never told.
        updates: the chance that a fact is changed later.
        tools: share of the facts that a tool's result tells instead of the user.
        alike: the chance that several subjects share an attribute.

    Raises:
        ConfigError: a value breaks its rule.
    """

    conversations: int = 1000
    seed: int = 0
    split: Split = "train"
    values: Values = "all"
    facts: tuple[int, int] = (1, 4)
    chats: int = 4
    tail: int = 12
    far: float = 0.33
    questions: int = 4
    near: float = 0.15
    unknown: float = 0.25
    updates: float = 0.2
    tools: float = 0.1
    alike: float = 0.4

    def __post_init__(self) -> None:
        if self.split not in ("train", "test") or self.values not in ("known", "invented", "all"):
            raise ConfigError(
                'split is "train" or "test", values "known", "invented" or "all"',
                got=(self.split, self.values),
                remedy="Choose one of each.",
            )
        if not 1 <= self.facts[0] <= self.facts[1]:
            raise ConfigError(
                "facts is the fewest and the most, from 1 on",
                got=self.facts,
                remedy="Pass for example facts=(1, 4).",
            )
        for name, least in (("conversations", 1), ("chats", 0), ("tail", 0), ("questions", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} is at least {least}",
                    got=getattr(self, name),
                    remedy=f"Leave it out for the default, {getattr(type(self), name)}.",
                )
        for name in ("far", "near", "updates", "tools", "alike"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} is between 0 and 1",
                    got=getattr(self, name),
                    remedy=f"Leave it out for the default, {getattr(type(self), name)}.",
                )
        if not 0 <= self.unknown < 1:
            raise ConfigError(
                "unknown is from 0 to below 1",
                got=self.unknown,
                remedy=f"Leave it out for the default, {type(self).unknown}.",
            )


def conversations(config: DataConfig) -> Iterator[dict[str, Any]]:
    """Draw the records of a data set, one after the other."""
    world = World(config.seed, config.split, config.values)
    for _ in range(config.conversations):
        yield _Writer(world, config).record()


@dataclass
class _Writer:
    """Writes one conversation; remembers what was told where."""

    world: World
    config: DataConfig
    messages: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    told: dict[Subject, list[int]] = field(default_factory=dict)
    called: bool = False

    def record(self) -> dict[str, Any]:
        config, random = self.config, self.world.random
        count = random.randint(*config.facts)
        turns, truth = self.world.history(
            count, random.randint(0, config.chats), updates=config.updates, alike=config.alike
        )
        for turn in turns:
            self.tell(turn)
        if config.tail and random.random() < config.far:
            for _ in range(random.randint(1, config.tail)):
                self.tell(self.world.chat())
        asked = self.world.questions(truth, config.unknown)
        for turn in itertools.islice(asked, random.randint(1, config.questions)):
            self.ask(turn)
        about = {"split": config.split, "answers": self.answers}
        tools = {"tools": [LOOK_UP]} if self.called else {}
        return {"messages": self.messages, **tools, "about": about}

    def tell(self, turn: Turn) -> None:
        """Add a turn that is not learnt from; perhaps by a tool, perhaps asked about at once."""
        random = self.world.random
        by_tool = turn.kind == "fact" and len(turn.values) == 1
        if by_tool and random.random() < self.config.tools:
            self.look_up(turn)
        else:
            self.messages += _weighted(turn, 0)
        for subject in turn.subjects:
            self.told.setdefault(subject, []).append(len(self.messages) - 1)
        if turn.values and random.random() < self.config.near:
            place = random.randrange(len(turn.values))
            self.ask(self.world.question(turn.subjects[place], turn.values[place]))

    def look_up(self, turn: Turn) -> None:
        """The same fact, told by the result of a tool that the user asked for."""
        subject, value = turn.subjects[0], turn.values[0]
        self.called = True
        request = self.world.random.choice(_REQUESTS[self.config.split])
        call = {"name": "look_up", "arguments": {"subject": subject.named("your")}}
        result = json.dumps({subject.attribute: value})
        self.messages += [
            {"role": "user", "content": request.format(s=subject.named("my")).capitalize() + "."},
            {"role": "assistant", "content": "", "weight": 0,
             "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": result},
            {"role": "assistant", "content": sentence(subject, value), "weight": 0},
        ]  # fmt: skip

    def ask(self, turn: Turn) -> None:
        """Add a question, whose answer is learnt."""
        self.messages += _weighted(turn, 1)
        place = len(self.messages) - 1
        places = self.told.get(turn.subjects[0], [])
        known = turn.kind == "question"
        self.answers.append({
            "message": place, "kind": turn.kind, "value": turn.values[0] if known else None,
            "distance": place - places[-1] if known else None, "revised": len(places) > 1,
        })  # fmt: skip


def _weighted(turn: Turn, weight: int) -> Sequence[dict[str, Any]]:
    user, assistant = turn.messages()
    return user, {**assistant, "weight": weight}
