"""Runs the model on what sessions feed it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deltamem_agents.adapter import MemoryCall
from deltamem_agents.runtime.session import Feed


class Runner:
    """Runs forward calls; used by one thread at a time.

    Args:
        model: a model with an adapter attached.
        by_segment: whether the adapter writes by message.
    """

    def __init__(self, model: Any, *, by_segment: bool = False) -> None:
        self.model = model
        self.by_segment = by_segment
        self.device = model.get_input_embeddings().weight.device

    @torch.inference_mode()
    def run(self, feed: Feed) -> Tensor:
        """Read one session's tokens; return the logits [V] after the last."""
        ids = torch.tensor([list(feed.ids)], device=self.device)
        output = self.model(
            input_ids=ids,
            past_key_values=feed.session.cache,
            use_cache=True,
            logits_to_keep=1,
            delta_mem=self._call(feed),
        )
        logits: Tensor = output.logits[0, -1]
        return logits

    def _call(self, feed: Feed) -> MemoryCall:
        write: bool | Tensor = all(feed.writes)
        if not write and any(feed.writes):
            write = torch.tensor([list(feed.writes)], device=self.device)
        if self.by_segment:
            return MemoryCall(segment_ids=0, write=write, closes=feed.closes)
        return MemoryCall(write=write)
