"""Recall: facts of held-out conversations, asked after they have left the window.

Each conversation is read by the real engine with its window, until every fact is out of view. The
assistant's side is the world's own text, or what the model itself replies (`own`): then it must
have understood what it was told, too. Then each fact is asked on a fork of its own, and the greedy
answer must be, to the letter, the sentence that states the fact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.frame import (
    Episode,
    Held,
    Message,
    Question,
    Reply,
    Scores,
    Task,
)
from deltamem_agents.evaluation.metrics import says
from deltamem_agents.evaluation.subjects import CONTROLS, Reader
from deltamem_agents.runtime.answer import Final
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.training.subjects import Subject
from deltamem_agents.training.values import Values
from deltamem_agents.training.world import Turn, World

UNKNOWN = ": never told, declined"


@dataclass(frozen=True)
class Setting:
    """What is told in a conversation.

    Args:
        facts: how many subjects.
        values: words that were in training in other places ("known"), or made up ("invented").
        revised: whether each is told a second value later, which then holds.
        controls: whether the controls are asked too.
        unknown: whether a subject that was never told is asked too.
        talk: least tokens of small talk after the last fact; a window's in any case.

    Raises:
        ConfigError: nothing is told.
    """

    facts: int
    values: Values = "known"
    revised: bool = False
    controls: bool = False
    unknown: bool = False
    talk: int = 0

    def __post_init__(self) -> None:
        if self.facts < 1:
            raise ConfigError(
                "a conversation tells a fact at least", got=self.facts, remedy="Give 1 or more."
            )

    @property
    def name(self) -> str:
        """The setting in words."""
        many = "fact" if self.facts == 1 else "facts"
        later = f", after {self.talk:,} tokens of talk" if self.talk else ""
        revised = "revised " if self.revised else ""
        return f"{self.facts} {revised}{many}, {self.values} values{later}"


SETTINGS = (
    Setting(1, controls=True, unknown=True),
    Setting(2),
    Setting(4, controls=True, unknown=True),
    Setting(8),
    Setting(1, "invented", controls=True),
    Setting(4, "invented"),
    Setting(2, revised=True),
    Setting(16),
    Setting(4, talk=2000),
)


def settings_of(counts: Collection[int]) -> list[Setting]:
    """The usual settings, or those with so many facts, and one for a count that is in none of them.

    Args:
        counts: of facts, whose controls are asked too; none for all the usual settings, where the
            controls are asked in some.
    """
    if not counts:
        return list(SETTINGS)
    usual = [replace(one, controls=True) for one in SETTINGS if one.facts in counts]
    others = set(counts) - {one.facts for one in usual}
    return usual + [Setting(count, controls=True) for count in sorted(others)]


class Recall(Task):
    """The task; see `frame.Task`.

    Args:
        reader: reads with the window that facts leave; its memories are the subjects' too.
        settings: what is told.
        count: conversations of each.
        seed: the same seed gives the same conversations.
        own: whether the replies to what is told are the model's.
    """

    name, max_tokens = "recall", 48
    metrics: tuple[str, ...] = ("exact", "old")

    def __init__(
        self,
        reader: Reader,
        settings: Sequence[Setting] = SETTINGS,
        *,
        count: int = 200,
        seed: int = 0,
        own: bool = False,
    ) -> None:
        self.reader, self.settings = reader, tuple(settings)
        self.count, self.seed, self.own = count, seed, own

    def draw(self) -> list[Episode]:
        """`count` conversations of each setting."""
        return [
            converse(self.reader, setting, start + number, own=self.own)
            for place, setting in enumerate(self.settings)
            for start in (1_000_000 * (self.seed + 1) + 10_000 * place,)
            for number in range(self.count)
        ]

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Exact: the sentence, to the letter; old: of a revised fact, it says what held before."""
        scores = {"exact": float(reply.text == question.answers[0])}
        if "old" in question.detail:
            scores["old"] = float(any(says(reply.text, one) for one in question.detail["old"]))
        return scores

    def wants(self, question: Question, subject: str) -> bool:
        """Controls answer where the setting wants them, and are not asked what nobody was told."""
        if subject not in CONTROLS:
            return True
        return bool(question.detail["controls"]) and not question.group.endswith(UNKNOWN)

    def about(self) -> Mapping[str, Any]:
        """Seed and sizes, and how far the facts are out of view where no talk is asked for."""
        told = [self.reader.read(episode)[0] for episode in self.episodes()]
        about = [episode.about for episode in self.episodes()]
        near = [one for one in about if not one["talk"]] or about
        return {
            "seed": self.seed,
            "own_replies": self.own,
            "settings": [setting.name for setting in self.settings],
            "count": self.count,
            "distance": _range(one["distance"] for one in near),
            "tokens": _range(memory.tokens_written for memory in told),
            "memory_bytes": _range(memory.nbytes for memory in told),
        }


def converse(reader: Reader, setting: Setting, seed: int, *, own: bool = False) -> Episode:
    """Draw a held-out conversation, long enough for its facts to leave the window; read it.

    Args:
        reader: see `Recall`.
        setting: what is told.
        seed: of the conversation.
        own: see `Recall`.

    Returns:
        The episode; its `about` has "gone", the messages out of view, "distance", the tokens
        between the last fact and the first visible message, and the setting's "talk".
    """
    engine = reader.engine
    world = World(seed, split="test", values=setting.values)
    updates = 1.0 if setting.revised else 0.0
    turns, truth = world.history(setting.facts, setting.facts, updates=updates)
    told = len(turns)
    after = 0
    while after < max(engine.context_window, setting.talk):
        turns.append(world.chat())
        after += _tokens(engine, turns[-1].messages())
    messages: list[Message] = [message for turn in turns for message in turn.messages()]
    if own:
        messages = _replied(engine, [turn.user for turn in turns])
    questions = [
        _asked(setting, world.question(about, value), setting.name, _before(turns, about, value))
        for about, value in truth.items()
    ]
    unknown = world.question(world.unknown(list(truth)), None)
    if setting.unknown:
        group = setting.name + UNKNOWN
        questions.append(_asked(setting, unknown, group, measured="unknown"))
    name = f"{setting.name} #{seed}"
    episode = Episode(name, tuple(messages), tuple(questions), setting.name)
    gone = reader.read(episode)[0].ledger.evicted_count
    if gone < 2 * told:
        raise AssertionError(f"a fact is still visible: {gone} of {2 * told} messages are gone")
    distance = _tokens(engine, messages[2 * told : gone])
    return replace(episode, about={"distance": distance, "gone": gone, "talk": setting.talk})


def _replied(engine: Engine, said: Sequence[str]) -> list[Message]:
    """What the user says, with the model's own replies."""
    messages: list[Message] = []
    memory = None
    for text in said:
        messages.append({"role": "user", "content": text})
        *_, last = engine.generate(memory, messages)
        assert isinstance(last, Final)
        memory = last.state
        messages.append(last.message)
    return messages


def _before(turns: Sequence[Turn], subject: Subject, value: str) -> list[str]:
    """What was told of a subject and holds no longer."""
    told = [pair for turn in turns for pair in zip(turn.subjects, turn.values, strict=False)]
    return [old for about, old in told if about == subject and old != value]


def _asked(
    setting: Setting, turn: Turn, group: str, old: Sequence[str] = (), **row: Any
) -> Question:
    detail = {"controls": setting.controls, "turn": turn} | ({"old": old} if old else {})
    row |= {"facts": setting.facts, "values": setting.values, "revised": setting.revised}
    return Question(turn.user, (turn.assistant,), group, detail, row)


def _tokens(engine: Engine, messages: Sequence[Message]) -> int:
    return engine.count_tokens(messages, generate=False) if messages else 0


def _range(numbers: Iterable[int]) -> dict[str, int]:
    listed = list(numbers)
    return {"least": min(listed), "most": max(listed)}
