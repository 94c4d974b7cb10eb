"""LoCoMo: questions about very long dialogues (Maharana and others 2024, snap-research/locomo).

The data is not shipped (CC BY-NC 4.0): give the path of `locomo10.json`. Categories 1 to 4 are
asked (multi-hop, temporal, open-domain, single-hop); F1 as in the official evaluation. A small
model cannot answer by generation; for it the log-probability of the gold answer is measured, from
the state alone, minus that without any context: what the memory adds to what the model would
guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deltamem_agents.errors import FileFormatError
from deltamem_agents.evaluation.frame import (
    Episode,
    Held,
    Message,
    Question,
    Reply,
    Scores,
    Task,
)  # fmt: skip
from deltamem_agents.evaluation.tasks.files import read_records, wanted
from deltamem_agents.evaluation.tasks.talk import exchange
from deltamem_agents.evaluation.text_scores import several_f1, stemmed_f1

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
LIKELIHOOD = ("state", "state-swapped", "none")
_ASK = (
    "Based on what you were told, write an answer in the form of a short phrase. Answer with exact "
    "words from the conversation where possible. Question: {question} Short answer:"
)


class LoCoMo(Task):
    """The task; see `frame.Task`.

    Args:
        path: of `locomo10.json`.
        limit: most questions of a conversation; None for all.
        dialogues: most conversations; None for all.
        likelihood: measure the gold answers' log-probability and generate nothing.
    """

    name = "locomo"

    def __init__(
        self,
        path: Path,
        *,
        limit: int | None = None,
        dialogues: int | None = None,
        likelihood: bool = False,
    ) -> None:
        self.path, self.limit, self.dialogues = path, limit, dialogues
        self.likelihood = likelihood
        self.max_tokens = 0 if likelihood else 50
        self.metrics = ("log p a token", "log p") if likelihood else ("f1",)
        if likelihood:
            self.pairs = (
                ("state", "none", "log p a token"),
                ("state", "state-swapped", "log p a token"),
            )

    def draw(self) -> Iterable[Episode]:
        """One episode a conversation."""
        for sample in read_records(self.path)[: self.dialogues]:
            wanted(sample, self.path, ("conversation", "qa", "sample_id"))
            try:
                told = tuple(_turns(sample["conversation"]))
                asked = [_question(one) for one in sample["qa"] if one["category"] in CATEGORIES]
            except (KeyError, TypeError, AttributeError) as error:
                raise FileFormatError(
                    "the file is LoCoMo's locomo10.json",
                    got=f"{self.path}: {error!r}",
                    remedy="Give the file as LoCoMo released it.",
                ) from error
            yield Episode(str(sample["sample_id"]), told, tuple(asked[: self.limit]))

    def score(self, held: Held, question: Question, reply: Reply) -> Scores:
        """Official F1, or the gold answer's log-probability (nats)."""
        gold = question.answers[0]
        if self.likelihood:
            total, count = held.likelihood(question, gold)
            return {"log p a token": total / max(count, 1), "log p": total}
        several = question.detail["category"] == 1
        return {"f1": several_f1(reply.text, gold) if several else stemmed_f1(reply.text, gold)}

    def about(self) -> Mapping[str, Any]:
        """See `frame.Task`."""
        return {
            "data": self.path.name, "limit": self.limit, "dialogues": self.dialogues,
            "likelihood": self.likelihood,
        }  # fmt: skip


def _turns(conversation: Mapping[str, Any]) -> Iterator[Message]:
    """Two turns of the dialogue as one exchange: the first speaker is the user.

    Every session begins with its date, every utterance with its speaker.
    """
    number = 1
    while (session := conversation.get(f"session_{number}")) is not None:
        date = conversation.get(f"session_{number}_date_time", "")
        said = [_said(turn) for turn in session]
        for place in range(0, len(said), 2):
            opening = f"Date: {date}. " if place == 0 else ""
            answer = said[place + 1] if place + 1 < len(said) else "..."
            yield from exchange(opening + said[place], answer)
        number += 1


def _said(turn: Mapping[str, Any]) -> str:
    shown = f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else ""
    return f"{turn['speaker']}: {turn['text']}{shown}"


def _question(asked: Mapping[str, Any]) -> Question:
    category, gold = int(asked["category"]), str(asked["answer"])
    if category == 3:
        gold = gold.partition(";")[0].strip()
    text = _ASK.format(question=asked["question"])
    if category == 2:
        text = text.replace("Short answer:", "Use the dates of the conversation. Short answer:")
    detail = {"category": category}
    return Question(text, (gold,), CATEGORIES[category], detail, {"category": category})
