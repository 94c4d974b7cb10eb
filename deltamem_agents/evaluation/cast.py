"""Makes subjects by name: the memory, its controls, the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.baselines.compression import Classifier, Compression, Surprise
from deltamem_agents.evaluation.baselines.context_lora import ContextLora, LoraSettings
from deltamem_agents.evaluation.baselines.memorybank import MemoryBank, by_extract, by_model
from deltamem_agents.evaluation.baselines.mlp_memory import MlpMemory, MlpSettings
from deltamem_agents.evaluation.baselines.retrieval import (
    Retrieval,
    by_both,
    by_meaning,
    by_words,
)
from deltamem_agents.evaluation.baselines.routed import Routed
from deltamem_agents.evaluation.frame import Subject
from deltamem_agents.evaluation.subjects import (
    MEMORIES,
    STANDARD,
    FromMemory,
    FromText,
    Reader,
    silent,
)
from deltamem_agents.runtime.engine import Engine

BASELINES = (
    "full", "off", "bm25", "vector", "hybrid", "compressed", "memorybank", "context2lora", "mlp",
)  # fmt: skip
VIEWS = ("off", "full", "none")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "standard": STANDARD,
    "baselines": ("memory", *BASELINES),
    "all": (*STANDARD, *(name for name in BASELINES if name not in STANDARD)),
}


@dataclass(frozen=True)
class BaselineSettings:
    """What baselines are given.

    Args:
        embedder: any of LangChain's; None for all-MiniLM-L6-v2 of the [embeddings] extra.
        compressor: folder of a token classifier (LLMLingua-2's weights); None scores words by the
            backbone's own surprise.
        summaries: "model" lets the backbone write them, "extract" takes sentences of the text.
        lora: see `LoraSettings`.
        mlp: see `MlpSettings`.
    """

    embedder: Any = None
    compressor: Path | None = None
    summaries: str = "model"
    lora: LoraSettings = field(default_factory=LoraSettings)
    mlp: MlpSettings = field(default_factory=MlpSettings)

    def __post_init__(self) -> None:
        if self.summaries not in ("model", "extract"):
            raise ConfigError(
                'summaries is "model" or "extract"',
                got=self.summaries,
                remedy='Leave it out for "model".',
            )


class Cast:
    """Subjects of one model, with one reader and one engine without memory between them.

    Args:
        engine: model, adapter and window; baselines may fill this window and no more.
        settings: of the baselines.
        bare: whether memories and "off" are asked with nothing of what was told in view.
    """

    def __init__(
        self, engine: Engine, settings: BaselineSettings | None = None, *, bare: bool = False
    ) -> None:
        self.engine, self.bare = engine, bare
        self.settings = settings or BaselineSettings()
        self.reader = Reader(engine, bare=bare)

    @cached_property
    def whole(self) -> Engine:
        """Sees all that the model's positions hold; no memory."""
        return silent(self.engine)

    @cached_property
    def narrow(self) -> Engine:
        """Sees what the memory's engine sees; no memory."""
        return silent(self.engine, self.engine.context_window)

    def choose(self, names: str) -> list[Subject]:
        """Subjects by names with commas; the keys of `GROUPS` stand for several.

        Raises:
            ConfigError: there is none of a name.
        """
        listed = [
            name
            for part in names.split(",")
            if (given := part.strip())
            for name in GROUPS.get(given, (given,))
        ]
        return [self.subject(name) for name in dict.fromkeys(listed)]

    def subject(self, name: str) -> Subject:
        """A memory, a control or a baseline.

        Raises:
            ConfigError: there is none of this name.
        """
        if name in MEMORIES:
            title, change, borrows = MEMORIES[name]
            return FromMemory(name, title, self.reader, change, borrows)
        if name in self._makers:
            return self._makers[name]()
        known = ", ".join((*MEMORIES, *self._makers, *GROUPS))
        raise ConfigError(f"a subject is one of {known}", got=name, remedy="Choose one of these.")

    @cached_property
    def _makers(self) -> dict[str, Callable[[], Subject]]:
        return {
            "off": self._off,
            "full": lambda: FromText("full", "everything visible, no memory", self.whole),
            "none": lambda: FromText("none", "nothing visible, no memory", self.narrow, False),
            "bm25": lambda: self._retrieval("bm25", "BM25 RAG", by_words, 0),
            "vector": lambda: self._embedded("vector", "vector RAG", by_meaning),
            "hybrid": lambda: self._embedded("hybrid", "hybrid RAG", by_both),
            "compressed": self._compression,
            "memorybank": self._memorybank,
            "context2lora": lambda: ContextLora(self.narrow, self.settings.lora),
            "mlp": lambda: MlpMemory(self.narrow, self.settings.mlp),
            "store": lambda: Routed("store", "exact store alone"),
            "both": lambda: Routed("both", "memory and exact store", self.subject("memory")),
        }

    def _off(self) -> Subject:
        view = "nothing in view" if self.bare else "sliding window"
        return FromText("off", f"memory off ({view})", self.narrow, not self.bare)

    @cached_property
    def embedder(self) -> tuple[Any, int]:
        """The embedder and how many numbers it has, as far as that can be told."""
        if self.settings.embedder is not None:
            return self.settings.embedder, 0
        from deltamem_agents.router.embed import MiniLM

        return MiniLM(), _MINILM_PARAMETERS

    def _retrieval(self, name: str, title: str, index: Any, parameters: int) -> Subject:
        return Retrieval(name, title, self.whole, index, self.engine.context_window, parameters)

    def _embedded(self, name: str, title: str, index: Any) -> Subject:
        embedder, parameters = self.embedder
        return self._retrieval(name, title, lambda texts: index(texts, embedder), parameters)

    def _compression(self) -> Subject:
        given = self.settings.compressor
        score = Surprise(self.whole) if given is None else Classifier(given)
        how = "own surprise" if given is None else "token classifier"
        return Compression(
            "compressed", f"compressed prompt ({how})", self.whole, score,
            self.engine.context_window, score.parameters,
        )  # fmt: skip

    def _memorybank(self) -> Subject:
        embedder, parameters = self.embedder
        own = self.settings.summaries == "model"
        return MemoryBank(
            "memorybank", f"MemoryBank ({'own' if own else 'extracted'} summaries)", self.whole,
            embedder, by_model(self.whole) if own else by_extract(), self.engine.context_window,
            parameters,
        )  # fmt: skip


_MINILM_PARAMETERS = 22_713_216
