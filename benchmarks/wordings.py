"""The built-in model told and asked in somebody else's words.

    python benchmarks/wordings.py

`wordings.json` has 120 facts with a sentence that tells each and a question that asks for it. They
were written one by one, by a language model that had seen neither the wordings that training is
made of nor any that the built-in model got wrong: unlike the held-out wordings of `deltamem eval
recall`, which have the training's author. Plain English is plain English: 16 of the sentences and
21 of the questions are ones that training can make too ("I work as a lawyer."); they are marked
("known"), and the last column leaves them out. Subjects and values are the training's: what is of
its lists in held-out combinations, numbers, codes and made-up names as they fell.

Four facts are told in a conversation, then talk follows until they have left the window. A reply is
right if it ends with the sentence that states the fact; "the value" counts those that name it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deltamem_agents.evaluation.metrics import Share, says
from deltamem_agents.runtime.answer import Final
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.training.subjects import sentence, subjects
from deltamem_agents.training.world import World

FILE = Path(__file__).with_name("wordings.json")
TOGETHER, WINDOW = 4, 256
REPEATED = "told, repeated by the reply"
IN_VIEW, AFTER_OWN, AFTER_GIVEN = (
    "asked while in view, after its own replies",
    "asked out of view, after its own replies",
    "asked out of view, after given replies",
)
Message = dict[str, Any]


@dataclass(frozen=True)
class Wording:
    """A fact, how it is told and how it is asked for; `known` says what training can make too."""

    truth: str
    value: str
    told: str
    asked: str
    known: tuple[str, ...] = ()

    def is_new(self, line: str) -> bool:
        """Whether training has no such sentence, and no such question where it is asked."""
        return not (set(self.known) & ({"told"} if line == REPEATED else {"told", "asked"}))


def wordings(path: Path = FILE) -> list[Wording]:
    """All of the file."""
    named = {subject.named("my"): subject for subject in subjects()}
    found = []
    for one in json.loads(path.read_text("utf-8")):
        truth = sentence(named[one["subject"]], one["value"])
        texts = one["value"], one["told"], one["asked"]
        found.append(Wording(truth, *texts, tuple(one["known"])))
    return found


class Trial:
    """Conversations with an engine, and what came of them by line of the table."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.right: dict[str, list[bool]] = defaultdict(list)
        self.value: dict[str, list[bool]] = defaultdict(list)
        self.new: dict[str, list[bool]] = defaultdict(list)

    def conversation(self, facts: Sequence[Wording], seed: int) -> None:
        """Tell them all, and ask for each on a fork of its own."""
        memory, own = None, list[Message]()
        for fact in facts:
            own.append({"role": "user", "content": fact.told})
            memory, reply = self._reply(memory, own)
            own.append(reply)
            self._judge(REPEATED, fact, reply)
        for fact in facts:
            self._ask(IN_VIEW, fact, memory, own)
        given = list[Message]()
        for fact in facts:
            given.append({"role": "user", "content": fact.told})
            given.append({"role": "assistant", "content": f"Okay. {fact.truth}"})
        talk = self._talk(seed)
        for line, told in ((AFTER_OWN, own), (AFTER_GIVEN, given)):
            history = [*told, *talk]
            memory = self.engine.read(None, history)
            if memory.ledger.evicted_count < len(told):
                raise AssertionError("a fact is still in view")
            for fact in facts:
                self._ask(line, fact, memory, history)

    def _talk(self, seed: int) -> list[Message]:
        world, talk = World(seed, "test"), list[Message]()
        while not talk or self.engine.count_tokens(talk, generate=False) < WINDOW:
            talk += world.chat().messages()
        return talk

    def _ask(self, line: str, fact: Wording, memory: Any, history: Sequence[Message]) -> None:
        question = {"role": "user", "content": fact.asked}
        self._judge(line, fact, self._reply(memory, [*history, question])[1])

    def _reply(self, memory: Any, messages: Sequence[Message]) -> tuple[Any, Message]:
        *_, last = self.engine.generate(memory, messages)
        assert isinstance(last, Final)
        return last.state, last.message

    def _judge(self, line: str, fact: Wording, reply: Message) -> None:
        text = str(reply["content"])
        self.right[line].append(text.endswith(fact.truth))
        self.value[line].append(says(text, fact.value))
        if fact.is_new(line):
            self.new[line].append(text.endswith(fact.truth))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=None, help="only the first so many facts")
    arguments = parser.parse_args()
    trial = Trial(load_engine(context_window=WINDOW))
    facts = wordings()[: arguments.count]
    groups = [facts[start : start + TOGETHER] for start in range(0, len(facts), TOGETHER)]
    for seed, group in enumerate(track(groups, description="conversations")):
        trial.conversation(group, seed)
    title = f"{len(facts)} facts in somebody else's words"
    table = Table(
        title, "right [95 %]", "the value", "right, none of training's", box=box.SIMPLE_HEAD
    )
    for line in (REPEATED, IN_VIEW, AFTER_OWN, AFTER_GIVEN):
        figures = (Share.of(by[line]) for by in (trial.right, trial.value, trial.new))
        table.add_row(line, *(f"{share} of {share.total}" for share in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
