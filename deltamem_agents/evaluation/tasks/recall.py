"""Recall: facts of held-out conversations, asked after they have left the window.

Each conversation is read by the real engine with its window (the assistant's side is the world's
own text, not generated), until every fact is out of view. Then each fact is asked on a fork of its
own, and the greedy answer must be, to the letter, the sentence that states the fact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from deltamem_agents.core.state import MemoryState
from deltamem_agents.evaluation.controls import emptied, swapped
from deltamem_agents.evaluation.metrics import Share
from deltamem_agents.runtime.answer import Final, Options
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.training.world import Turn, Values, World

WORKERS = 8
_OPTIONS = Options(sampling=Sampling(max_tokens=48))
Tick = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What is told in a conversation.

    Args:
        facts: how many subjects.
        values: words that were in training in other places ("known"), or made up ("invented").
        revised: whether each is told a second value later, which then holds.
        rows: what is measured: "memory", "reset", "swapped", "full", "unknown".
    """

    facts: int
    values: Values = "known"
    revised: bool = False
    rows: tuple[str, ...] = ("memory",)

    @property
    def name(self) -> str:
        """The setting in words."""
        many = "fact" if self.facts == 1 else "facts"
        return f"{self.facts} {'revised ' if self.revised else ''}{many}, {self.values} values"


SETTINGS = (
    Setting(1, rows=("memory", "reset", "swapped", "full", "unknown")),
    Setting(2),
    Setting(4, rows=("memory", "reset", "swapped", "full", "unknown")),
    Setting(8),
    Setting(1, "invented", rows=("memory", "reset", "full")),
    Setting(4, "invented"),
    Setting(2, revised=True),
)
TITLES = {
    "memory": "with memory",
    "reset": "memory reset",
    "swapped": "another conversation's memory",
    "full": "everything visible, no memory",
    "unknown": "never told: declined",
}


@dataclass(frozen=True)
class Conversation:
    """A conversation that was read.

    Attributes:
        messages: all of it.
        questions: one for each subject that was told.
        unknown: a question about a subject that was not told.
        memory: after the last message; nothing that was told is in view any more.
        distance: tokens between the last fact and the first visible message.
    """

    messages: tuple[dict[str, str], ...]
    questions: tuple[Turn, ...]
    unknown: Turn
    memory: MemoryState
    distance: int


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes:
        setting: what was told.
        kind: what was measured.
        share: right answers.
        conversations: of how many conversations.
        misses: some wrong answers: (question, truth, answer).
    """

    setting: Setting
    kind: str
    share: Share
    conversations: int
    misses: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)


def converse(engine: Engine, setting: Setting, seed: int) -> Conversation:
    """Draw a held-out conversation and read it until its facts are out of the window."""
    world = World(seed, split="test", values=setting.values)
    updates = 1.0 if setting.revised else 0.0
    turns, truth = world.history(setting.facts, setting.facts, updates=updates)
    told = len(turns)
    after = 0
    while after < engine.context_window:
        turns.append(world.chat())
        after += _tokens(engine, turns[-1].messages())
    messages = _messages(turns)
    memory = engine.read(None, messages)
    gone = memory.ledger.evicted_count
    if gone < 2 * told:
        raise AssertionError(f"a fact is still visible: {gone} of {2 * told} messages are gone")
    questions = tuple(world.question(subject, value) for subject, value in truth.items())
    unknown = world.question(world.unknown(list(truth)), None)
    distance = _tokens(engine, messages[2 * told : gone])
    return Conversation(tuple(messages), questions, unknown, memory, distance)


def ask(engine: Engine, memory: MemoryState | None, said: Sequence[Any], question: str) -> str:
    """Ask on a fork; the greedy answer."""
    prompt = [*said, {"role": "user", "content": question}]
    *_, last = engine.generate(memory, prompt, options=_OPTIONS)
    assert isinstance(last, Final)
    return str(last.message["content"]).strip()


def measure(
    engine: Engine,
    full: Engine | None,
    setting: Setting,
    count: int,
    seed: int,
    tick: Tick = lambda: None,
) -> tuple[list[Row], list[Conversation]]:
    """Measure one setting on `count` conversations.

    Args:
        engine: with the window that facts leave.
        full: sees whole conversations and writes nothing; None leaves that row out.
        setting: what is told and measured.
        count: how many conversations.
        seed: of the first; the others follow.
        tick: called after each conversation of each row, and after each that was read.
    """

    def done(work: Callable[[int], Any], number: int) -> Any:
        result = work(number)
        tick()
        return result

    with ThreadPoolExecutor(WORKERS) as pool:
        read = partial(done, lambda number: converse(engine, setting, seed + number))
        held: list[Conversation] = list(pool.map(read, range(count)))
        rows = []
        for kind in setting.rows:
            if kind == "full" and full is None:
                continue
            work = partial(done, partial(_asked, engine, full, held, kind))
            answers = itertools.chain.from_iterable(pool.map(work, range(count)))
            rows.append(_row(setting, kind, count, answers))
    return rows, held


def steps(settings: Iterable[Setting], count: int, *, full: bool) -> int:
    """How often `measure` will call `tick` over all settings."""
    rows = [kind for setting in settings for kind in setting.rows if full or kind != "full"]
    return count * (len(rows) + len(tuple(settings)))


def _asked(
    engine: Engine, full: Engine | None, held: Sequence[Conversation], kind: str, number: int
) -> list[tuple[str, str, str]]:
    """The answers of one conversation: (question, truth, answer)."""
    here, other = held[number], held[(number + 1) % len(held)]
    runner, memory = engine, here.memory
    if kind == "reset":
        memory = emptied(memory)
    elif kind == "swapped":
        memory = swapped(memory, other.memory)
    elif kind == "full":
        assert full is not None
        runner, memory = full, full.read(None, here.messages)
    turns = (here.unknown,) if kind == "unknown" else here.questions
    return [
        (turn.user, turn.assistant, ask(runner, memory, here.messages, turn.user)) for turn in turns
    ]


def _row(setting: Setting, kind: str, count: int, answers: Iterable[tuple[str, str, str]]) -> Row:
    outcomes = list(answers)
    right = [answer == truth for _, truth, answer in outcomes]
    misses = tuple(entry for entry, hit in zip(outcomes, right, strict=True) if not hit)
    return Row(setting, kind, Share.of(right), count, misses[:10])


def _messages(turns: Iterable[Turn]) -> list[dict[str, str]]:
    return [message for turn in turns for message in turn.messages()]


def _tokens(engine: Engine, messages: Sequence[dict[str, str]]) -> int:
    return engine.count_tokens(messages, generate=False) if messages else 0
