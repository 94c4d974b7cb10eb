"""Retrieval: the turns that look most like the question are put before it.

By words (BM25), by meaning (cosine of an embedder) or by both (reciprocal rank fusion of the two).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltamem_agents.evaluation.baselines.turns import bytes_of, fill, text_of, turns_of
from deltamem_agents.evaluation.frame import Cost, Episode
from deltamem_agents.evaluation.subjects import Asked
from deltamem_agents.router.keyword import bm25
from deltamem_agents.router.vector import fuse
from deltamem_agents.runtime.engine import Engine

TOP = 5
Rank = Callable[[str], list[int]]
_STOP_WORDS = """
a an and are as at be but by can did do does for from had has have he her his how i in is it its me
my of on or our she so that the their them then there they this to was we were what when where
which who whom whose why will with you your
"""
_STOP = frozenset(_STOP_WORDS.split())


def words_of(text: str) -> list[str]:
    """Lower-case words without the commonest ones."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in _STOP]


def by_words(texts: Sequence[str]) -> tuple[Rank, int]:
    """BM25 over texts, and the bytes of its index (words and where they stand)."""
    documents = {place: words_of(text) for place, text in enumerate(texts)}

    def rank(question: str) -> list[int]:
        scores = bm25(words_of(question), documents, len(documents))
        found = [place for place in documents if scores[place][0] > 0]
        return sorted(found, key=lambda place: -scores[place][0])

    size = bytes_of(word for words in documents.values() for word in set(words))
    return rank, size + 4 * sum(len(set(words)) for words in documents.values())


def by_meaning(texts: Sequence[str], embedder: Any) -> tuple[Rank, int]:
    """Cosine of embeddings, and their bytes; the embedder is any of LangChain's."""
    matrix = unit(np.asarray(embedder.embed_documents(list(texts)), np.float32))

    def rank(question: str) -> list[int]:
        asked = unit(np.asarray([embedder.embed_query(question)], np.float32))[0]
        return [int(place) for place in np.argsort(-(matrix @ asked), kind="stable")]

    return rank, matrix.nbytes


def by_both(texts: Sequence[str], embedder: Any) -> tuple[Rank, int]:
    """Reciprocal rank fusion of the two, and the bytes of both."""
    (first, words), (second, vectors) = by_words(texts), by_meaning(texts, embedder)

    def rank(question: str) -> list[int]:
        fused = fuse([first(question), second(question)[: 4 * TOP]])
        return sorted(fused, key=lambda place: (-fused[place], place))

    return rank, words + vectors


def unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Vectors [N, d] at unit length; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


@dataclass(frozen=True)
class Retrieval:
    """A subject that looks turns up.

    Args:
        name: see `frame.Subject`.
        title: see there.
        engine: answers, without a memory.
        index: texts -> (ranking, bytes of the index).
        budget: most tokens of a prompt.
        parameters: of what the index needs beside the backbone.
        top: most turns.
    """

    name: str
    title: str
    engine: Engine
    index: Callable[[Sequence[str]], tuple[Rank, int]]
    budget: int
    parameters: int = 0
    top: int = TOP
    parallel: bool = True

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Asked]:
        """Index the turns; see `frame.Subject`."""
        began = time.perf_counter()
        turns = turns_of(episode.told)
        texts = [text_of(turn) for turn in turns]
        rank, size = self.index(texts) if texts else (lambda question: [], 0)
        cost = Cost(self.parameters, size + bytes_of(texts), seconds=time.perf_counter() - began)
        yield Asked(
            self.engine, None,
            lambda asked: fill(
                self.engine, turns, rank(asked.text)[: self.top], asked.text, self.budget
            ),
            cost,
        )  # fmt: skip
