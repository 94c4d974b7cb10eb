"""The store as retrieval on LoCoMo: which turns of a long dialogue answer a question.

LoCoMo (Maharana and others 2024, snap-research/locomo, CC BY-NC 4.0) is not shipped: give the path
of `locomo10.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import FileFormatError
from deltamem_agents.router import FactStore

K = 5
Ranker = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Dialogue:
    """One conversation.

    Attributes:
        turns: id of a turn -> "speaker: text".
        questions: question and the ids of the turns that answer it.
    """

    name: str
    turns: Mapping[str, str]
    questions: tuple[tuple[str, tuple[str, ...]], ...]


def load_locomo(path: Path) -> tuple[Dialogue, ...]:
    """Reads the data set; questions without evidence in the dialogue are left out.

    Raises:
        FileFormatError: it is not LoCoMo's file.
    """
    try:
        samples = json.loads(path.read_text("utf-8"))
        return tuple(_dialogue(sample) for sample in samples)
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            "the file is LoCoMo's locomo10.json",
            got=f"{path}: {error!r}",
            remedy="Give the file as LoCoMo released it.",
        ) from error


def _dialogue(sample: Mapping[str, Any]) -> Dialogue:
    turns = {
        turn["dia_id"]: f"{turn['speaker']}: {turn['text']}"
        for name, session in sample["conversation"].items()
        if name.startswith("session_") and isinstance(session, list)
        for turn in session
    }
    questions = tuple(
        (asked["question"], tuple(e for e in asked.get("evidence", ()) if e in turns))
        for asked in sample["qa"]
    )
    kept = tuple((question, evidence) for question, evidence in questions if evidence)
    return Dialogue(sample["sample_id"], turns, kept)


def recall(dialogues: Sequence[Dialogue], ranker: Callable[[Dialogue], Ranker]) -> dict[str, float]:
    """Evidence recall at 5: the share of a question's evidence turns among the first five.

    Args:
        dialogues: of `load_locomo`.
        ranker: from a dialogue to a function from a question to turn ids, best first.

    Returns:
        "recall@5", "hit@5" (any evidence found) and "questions".
    """
    shares: list[float] = []
    for dialogue in dialogues:
        rank = ranker(dialogue)
        for question, evidence in dialogue.questions:
            found = set(rank(question)[:K])
            shares.append(len(found & set(evidence)) / len(set(evidence)))
    return {
        "recall@5": float(np.mean(shares)),
        "hit@5": float(np.mean([share > 0 for share in shares])),
        "questions": float(len(shares)),
    }


def store_ranker(
    folder: Path, embeddings: Embeddings | None = None
) -> Callable[[Dialogue], Ranker]:
    """Our store: each turn a document, each dialogue a thread of its own."""
    saver = SQLAlchemySaver(folder / "locomo.db", synchronous="OFF")
    saver.setup()
    store = FactStore(saver, embeddings=embeddings)

    def build(dialogue: Dialogue) -> Ranker:
        scope = store.branch(dialogue.name)
        pages = [Document(text, id=name) for name, text in dialogue.turns.items()]
        store.add_documents(pages, scope, facts=False)
        return lambda question: [
            hit.fact.source_message_id for hit in store.search(question, scope, K)
        ]

    return build


def bm25s_ranker(dialogue: Dialogue) -> Ranker:
    """bm25s alone, with its own English stop words and no stemmer."""
    import bm25s

    names = list(dialogue.turns)
    index = bm25s.BM25()
    corpus = bm25s.tokenize(list(dialogue.turns.values()), stopwords="en", show_progress=False)
    index.index(corpus, show_progress=False)

    def rank(question: str) -> Sequence[str]:
        words = bm25s.tokenize(question, stopwords="en", show_progress=False)
        found, _ = index.retrieve(words, k=K, show_progress=False)
        return [names[number] for number in found[0]]

    return rank


def vector_ranker(embeddings: Embeddings) -> Callable[[Dialogue], Ranker]:
    """An embedder alone."""

    def build(dialogue: Dialogue) -> Ranker:
        names = list(dialogue.turns)
        matrix = np.asarray(embeddings.embed_documents(list(dialogue.turns.values())))
        return lambda question: [
            names[number] for number in np.argsort(-(matrix @ embeddings.embed_query(question)))[:K]
        ]

    return build


def evaluate_locomo(path: Path, embeddings: Embeddings | None = None) -> dict[str, Any]:
    """Compares our store with bm25s alone and, with an embedder, with that alone.

    Args:
        path: of `locomo10.json`.
        embeddings: such as `MiniLM()`; without any, keyword search only.
    """
    dialogues = load_locomo(path)
    rows: dict[str, Any] = {"bm25s alone": recall(dialogues, bm25s_ranker)}
    with TemporaryDirectory() as folder:
        rows["store, keyword"] = recall(dialogues, store_ranker(Path(folder)))
        if embeddings is not None:
            cached = _Cached(embeddings)
            rows["embedder alone"] = recall(dialogues, vector_ranker(cached))
            rows["store, keyword and vectors"] = recall(
                dialogues, store_ranker(Path(folder), cached)
            )
    return rows


class _Cached(Embeddings):
    """Embeds each text once, since two rows of the table need the same vectors."""

    def __init__(self, inner: Embeddings) -> None:
        self.inner, self.name = inner, getattr(inner, "name", "")
        self._seen: dict[str, list[float]] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if new:
            self._seen.update(zip(new, self.inner.embed_documents(new), strict=True))
        return [self._seen[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]
