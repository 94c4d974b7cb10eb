"""The mixed set: what a store answers well and what only a model can, in the same conversations.

Facts with known and with invented values, revised facts, facts that were never told, and small
talk, all in held-out sentences of the built-in model's world, asked after they have left the
window. It is for comparing a memory alone, the exact store alone, and both.
"""

from __future__ import annotations

import re
from dataclasses import replace

from deltamem_agents.evaluation.baselines.routed import NOT_TOLD
from deltamem_agents.evaluation.frame import Episode, Held, Question, Reply, Scores
from deltamem_agents.evaluation.subjects import Reader
from deltamem_agents.evaluation.tasks.recall import UNKNOWN, Recall, Setting
from deltamem_agents.training.world import World

MIXED = (
    Setting(4, unknown=True),
    Setting(4, "invented", unknown=True),
    Setting(2, revised=True, unknown=True),
)
TALK = "small talk"


class Mixed(Recall):
    """The task; see `frame.Task`.

    Args:
        reader: see `Recall`.
        count: conversations of each setting of `MIXED`.
        seed: see `Recall`.
    """

    name, metrics = "mixed", ("right",)
    pairs = (("both", "memory", "right"), ("both", "store", "right"))

    def __init__(self, reader: Reader, *, count: int = 50, seed: int = 0) -> None:
        super().__init__(reader, MIXED, count=count, seed=seed)

    def draw(self) -> list[Episode]:
        """As `Recall`, with one turn of small talk asked in each conversation."""
        return [self._with_talk(number, one) for number, one in enumerate(super().draw())]

    def _with_talk(self, number: int, episode: Episode) -> Episode:
        turn = World(7_000_000 * (self.seed + 1) + number, split="test").chat()
        asked = Question(turn.user, (turn.assistant,), TALK, {"controls": False, "turn": turn})
        return replace(episode, questions=(*episode.questions, asked))

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Right: the value verbatim, no value where none was told, the world's reply to talk."""
        turn = question.detail["turn"]
        if question.group == TALK:
            return {"right": float(reply.text == turn.assistant)}
        if question.group.endswith(UNKNOWN):
            return {"right": float(reply.text in (turn.assistant, NOT_TOLD))}
        value = re.escape(turn.values[0])
        return {"right": float(re.search(rf"(?<!\w){value}(?!\w)", reply.text) is not None)}
