"""Runs the model on what sessions feed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.adapter import MemoryCall, close_segments
from deltamem_agents.runtime.batch import DecodeBatch
from deltamem_agents.runtime.few_rows import few_rows, gains_from_few_rows
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
        self.batch = DecodeBatch(model, self.device)
        self._wide = gains_from_few_rows(model)

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read tokens of one session, or one token of each of many.

        Args:
            feeds: one feed; or several for which `joins` holds.

        Returns:
            For each feed, the logits [V] after its last token.
        """
        if not self._wide:
            return self._forward(feeds)
        with few_rows(sum(len(feed.ids) for feed in feeds)):
            return self._forward(feeds)

    def _forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        if len(feeds) == 1 and not self.joins(feeds[0]):
            feeds[0].session.leave_batch()
            return [self._run(feeds[0])]
        wanted = {feed.session for feed in feeds}
        for session in [s for s in self.batch.sessions if s not in wanted]:
            self.batch.leave(session)
        for feed in feeds:
            if feed.session.batch is None:
                self.batch.join(feed.session)
        return self.batch.step(feeds)

    @staticmethod
    def joins(feed: Feed) -> bool:
        """Whether a feed can be read together with others: one token of a plain session."""
        session = feed.session
        return len(feed.ids) == 1 and session.length > 0 and DecodeBatch.takes(session)

    @torch.inference_mode()
    def _run(self, feed: Feed) -> Tensor:
        ids = torch.tensor([list(feed.ids)], device=self.device)
        output = self.model(
            input_ids=ids,
            past_key_values=feed.session.cache,
            use_cache=True,
            logits_to_keep=1,
            delta_mem=self._call(feed),
        )
        cache = feed.session.cache
        if self.by_segment and feed.closes and cache.has_open_segments:
            close_segments(self.model, cache)  # its last tokens do not write, so nothing closed it
        logits: Tensor = output.logits[0, -1]
        return logits

    def _call(self, feed: Feed) -> MemoryCall:
        write: bool | Tensor = all(feed.writes)
        if not write and any(feed.writes):
            write = torch.tensor([list(feed.writes)], device=self.device)
        if self.by_segment:
            return MemoryCall(segment_ids=0, write=write, closes=feed.closes)
        return MemoryCall(write=write)
