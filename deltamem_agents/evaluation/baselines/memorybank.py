"""MemoryBank-style memory (Zhong and others 2023): summaries that fade unless they are recalled.

Turns that are told become memories in groups; each is summarised and embedded. As in the paper a
memory's retention after t steps is exp(-t / S) (Ebbinghaus), its strength S grows by one and t
begins anew whenever it is recalled, and what is retained least is forgotten. A turn recalls the
memories most like it; a question recalls by likeness times retention.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deltamem_agents.evaluation.baselines.retrieval import unit, words_of
from deltamem_agents.evaluation.baselines.turns import (
    bytes_of,
    count_of,
    fill,
    text_of,
    turns_of,
)
from deltamem_agents.evaluation.frame import Cost, Episode, Message, Question
from deltamem_agents.evaluation.subjects import Asked
from deltamem_agents.runtime.answer import Final, Options
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.sampling import Sampling

GROUP = 4  # turns of a memory
SCALE = 10.0  # steps in which a memory of strength 1 fades to 1/e
LEAST = 0.05  # retention below which a memory is forgotten
Summarise = Callable[[str], str]


@dataclass
class Memory:
    """Something remembered.

    Attributes:
        summary: what is kept of it.
        vector: its embedding, unit length.
        seen: the step at which it was made or last recalled.
        strength: S.
    """

    summary: str
    vector: np.ndarray[Any, Any]
    seen: int
    strength: float = 1.0

    def retention(self, now: int) -> float:
        """exp(-t / S), t in steps of `SCALE`."""
        return math.exp(-(now - self.seen) / (SCALE * self.strength))

    def recall(self, now: int) -> None:
        """Become stronger, and fresh again."""
        self.strength += 1
        self.seen = now


@dataclass
class Bank:
    """The memories of one conversation.

    Args:
        embedder: any of LangChain's.
        summarise: text -> summary.
    """

    embedder: Any
    summarise: Summarise
    memories: list[Memory] = field(default_factory=list)
    now: int = 0

    def step(self, text: str) -> None:
        """A turn goes by: it recalls what is most like it, and what has faded is forgotten."""
        self.now += 1
        if self.memories:
            likeness = self._likeness(text)
            self.memories[int(np.argmax(likeness))].recall(self.now)
        self.memories = [m for m in self.memories if m.retention(self.now) >= LEAST]

    def store(self, text: str) -> None:
        """Remember a text by its summary."""
        summary = self.summarise(text)
        vectors = unit(np.asarray(self.embedder.embed_documents([summary]), np.float32))
        self.memories.append(Memory(summary, vectors[0], self.now))

    def ranked(self, question: str) -> list[int]:
        """Places of memories, those first that are like the question and well retained."""
        if not self.memories:
            return []
        kept = np.array([memory.retention(self.now) for memory in self.memories])
        return [int(place) for place in np.argsort(-self._likeness(question) * kept)]

    def _likeness(self, text: str) -> np.ndarray[Any, Any]:
        asked = unit(np.asarray([self.embedder.embed_query(text)], np.float32))[0]
        return np.maximum([float(memory.vector @ asked) for memory in self.memories], 0.0)


def by_model(engine: Engine, max_tokens: int = 96) -> Summarise:
    """Summaries that the backbone writes."""

    def summarise(text: str) -> str:
        asked = f"Summarise in one or two sentences, with all names and numbers:\n\n{text}"
        options = Options(sampling=Sampling(max_tokens=max_tokens))
        prompt = [{"role": "user", "content": asked}]
        *_, last = engine.generate(None, prompt, options=options)
        assert isinstance(last, Final)
        return str(last.message["content"]).strip() or text

    return summarise


def by_extract(share: float = 0.5) -> Summarise:
    """Summaries of a text's own sentences, those with the rarest words: for models that cannot.

    Args:
        share: of the sentences that stay.
    """

    def summarise(text: str) -> str:
        sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", text) if s.strip()]
        counts = Counter(word for sentence in sentences for word in set(words_of(sentence)))
        weight = [sum(1 / counts[word] for word in set(words_of(s))) for s in sentences]
        kept = max(1, round(share * len(sentences)))
        best = sorted(range(len(sentences)), key=lambda place: -weight[place])[:kept]
        return " ".join(sentences[place] for place in sorted(best))

    return summarise


@dataclass(frozen=True)
class MemoryBank:
    """A subject that answers from summaries.

    Args:
        name: see `frame.Subject`.
        title: see there.
        engine: answers, without a memory.
        embedder: any of LangChain's.
        summarise: text -> summary.
        budget: most tokens of a prompt.
        parameters: of the embedder.
        top: most memories of a prompt.
    """

    name: str
    title: str
    engine: Engine
    embedder: Any
    summarise: Summarise
    budget: int
    parameters: int = 0
    top: int = 5
    parallel: bool = True

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Asked]:
        """Live through the turns; see `frame.Subject`."""
        began = time.perf_counter()
        bank = Bank(self.embedder, self.summarise)
        turns = [text_of(turn) for turn in turns_of(episode.told)]
        for place, text in enumerate(turns, 1):
            bank.step(text)
            if place % GROUP == 0 or place == len(turns):
                first = GROUP * ((place - 1) // GROUP)
                bank.store("\n".join(turns[first:place]))
        size = bytes_of(m.summary for m in bank.memories)
        size += sum(m.vector.nbytes for m in bank.memories)
        read = count_of(self.engine, episode.told)
        cost = Cost(self.parameters, size, read, time.perf_counter() - began)
        yield Asked(self.engine, None, lambda asked: self._prompt(bank, asked), cost)

    def _prompt(self, bank: Bank, asked: Question) -> Sequence[Message]:
        shown: list[tuple[Message, ...]] = [
            ({"role": "user", "content": m.summary}, {"role": "assistant", "content": "Noted."})
            for m in bank.memories
        ]
        ranked = bank.ranked(asked.text)[: self.top]
        return fill(self.engine, shown, ranked, asked.text, self.budget)
