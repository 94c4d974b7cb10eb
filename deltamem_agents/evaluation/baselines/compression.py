"""Prompt compression: words that carry least are dropped until what was told fits.

In the manner of LLMLingua-2 (Pan and others 2024): a model scores every token, a word's score is
the mean of its tokens', and the words with the highest scores stay, in their order. With the
published weights (a token classifier, given by its folder) the score is the probability to keep;
without them it is the backbone's own surprise at the token, -log p(token | what precedes it), as in
Selective Context (Li and others 2023).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deltamem_agents.evaluation.baselines.turns import bytes_of, count_of
from deltamem_agents.evaluation.frame import Cost, Episode, Message
from deltamem_agents.evaluation.subjects import Asked
from deltamem_agents.runtime.engine import Engine

_WORD = re.compile(r"\S+")
_CHUNK = 448
Score = Callable[[str], list[float]]


def words_by_score(text: str, offsets: Sequence[tuple[int, int]], scores: Sequence[float]
                   ) -> list[float]:  # fmt: skip
    """The mean score of the tokens of each word (what stands between blanks)."""
    found = []
    for word in _WORD.finditer(text):
        own = [
            score
            for (first, last), score in zip(offsets, scores, strict=True)
            if first < word.end() and last > word.start() and last > first
        ]
        found.append(sum(own) / len(own) if own else 0.0)
    return found


class Surprise:
    """Scores words by how little a causal LM expected them.

    Args:
        engine: whose model; its memory is not involved.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parameters = 0

    @torch.inference_mode()
    def __call__(self, text: str) -> list[float]:
        """A score for each word of a text, in nats."""
        encoded = self.engine.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, scores = encoded["input_ids"], []
        for start in range(0, len(ids), _CHUNK):
            part = torch.tensor([ids[start : start + _CHUNK]], device=self.engine.runner.device)
            from deltamem_agents.adapter import MemoryCall

            call = MemoryCall(write=False)
            logits = self.engine.model(input_ids=part, delta_mem=call).logits[0].float()
            told = torch.log_softmax(logits[:-1], -1).gather(1, part[0, 1:, None])[:, 0]
            # The first token of a part is expected by nothing: it counts as a uniform guess.
            scores += [float(torch.tensor(logits.shape[-1]).log()), *(-told).tolist()]
        return words_by_score(text, encoded["offset_mapping"], scores)


class Classifier:
    """Scores words by a token classifier's probability to keep them: LLMLingua-2's own weights.

    Args:
        folder: of a checkpoint that `AutoModelForTokenClassification` reads; label 1 keeps.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForTokenClassification.from_pretrained(folder).eval()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    @torch.inference_mode()
    def __call__(self, text: str) -> list[float]:
        """A score for each word of a text, between 0 and 1."""
        words = list(_WORD.finditer(text))
        scores: list[float] = []
        for start in range(0, len(words), _CHUNK // 2):
            part = words[start : start + _CHUNK // 2]
            piece = text[part[0].start() : part[-1].end()]
            encoded = self.tokenizer(
                piece, return_offsets_mapping=True, return_tensors="pt", truncation=True,
                max_length=512,
            )  # fmt: skip
            offsets = [tuple(pair) for pair in encoded.pop("offset_mapping")[0].tolist()]
            keep = torch.softmax(self.model(**encoded).logits[0].float(), -1)[:, 1]
            scores += words_by_score(piece, offsets, keep.tolist())
        return scores


@dataclass(frozen=True)
class Compression:
    """A subject that shortens what it was told.

    Args:
        name: see `frame.Subject`.
        title: see there.
        engine: answers, without a memory.
        score: of the words of a text.
        budget: most tokens of a prompt.
        parameters: of the scoring model, where it is another one.
    """

    name: str
    title: str
    engine: Engine
    score: Score
    budget: int
    parameters: int = 0
    parallel: bool = False  # the scores are taken outside of the engine's own thread

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Asked]:
        """Score all words once, keep what fits; see `frame.Subject`."""
        began = time.perf_counter()
        scored = [self.score(str(message["content"])) for message in episode.told]
        longest = max((question.text for question in episode.questions), key=len, default="")
        told = self._shortened(episode.told, scored, longest)
        cost = Cost(
            self.parameters, bytes_of(str(message["content"]) for message in told),
            count_of(self.engine, episode.told), time.perf_counter() - began,
        )  # fmt: skip
        yield Asked(self.engine, None, lambda _: told, cost)

    def _shortened(
        self, told: Sequence[Message], scored: Sequence[Sequence[float]], question: str
    ) -> list[Message]:
        """The largest share of words, by halving, with which the prompt fits."""
        ranked = sorted((s for scores in scored for s in scores), reverse=True)
        low, high = 0, len(ranked)
        while low < high:
            kept = (low + high + 1) // 2
            tried = cut(told, scored, ranked[kept - 1])
            prompt = [*tried, {"role": "user", "content": question}]
            if self.engine.count_tokens(prompt) <= self.budget:
                low = kept
            else:
                high = kept - 1
        return cut(told, scored, ranked[low - 1]) if low else []


def cut(told: Sequence[Message], scored: Sequence[Sequence[float]], least: float) -> list[Message]:
    """Messages with the words whose score is at least `least`; a turn without any is left out."""
    kept: list[dict[str, Any]] = []
    for message, scores in zip(told, scored, strict=True):
        words = _WORD.findall(str(message["content"]))
        held = [word for word, score in zip(words, scores, strict=True) if score >= least]
        kept.append({**message, "content": " ".join(held)})
    found: list[Message] = []
    for place in range(0, len(kept), 2):
        turn = kept[place : place + 2]
        if any(message["content"] for message in turn):
            found += turn
    return found
