"""One decode step for many sessions: a row each, with its own length and its own memory.

Rows end at the same column, so that a token is stored with one copy for all of them, and what a
shorter row lacks is in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from deltamem_agents.adapter import MemoryCache, MemoryCall
from deltamem_agents.runtime.session import Feed, Session

_STEP = 256  # buffers grow by this many columns


class Span:
    """The columns that are in use, the same in all layers.

    Attributes:
        start: the first one, where the longest row begins.
        end: the one after the newest token.
    """

    def __init__(self) -> None:
        self.start = self.end = 0


class RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values [rows, heads, capacity, d] of one layer; more rows than are in use."""

    is_sliding = False

    def __init__(self, span: Span) -> None:
        super().__init__()
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.span = span

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Rows are put in by `DecodeBatch.join`."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store one token a row in the newest column; return the columns in use."""
        assert self.keys is not None
        assert self.values is not None
        start, end, count = self.span.start, self.span.end, key_states.shape[0]
        keys, values = self.keys[:count, :, start:end], self.values[:count, :, start:end]
        keys[:, :, -1:] = key_states
        values[:, :, -1:] = value_states
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query sees."""
        return self.span.end - self.span.start, 0

    def get_seq_length(self) -> int:
        """Length of the longest row, without the token that is being read."""
        return max(0, self.span.end - self.span.start - 1)

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1

    def reserve(self, rows: int, columns: int, like: Tensor) -> None:
        """Make room; what is stored stays in its place."""
        self.keys = _grown(self.keys, rows, columns, like)
        self.values = _grown(self.values, rows, columns, like)
        self.is_initialized = True

    def to_front(self) -> None:
        """Move the columns in use to the front; they must fit before where they are."""
        start, end = self.span.start, self.span.end
        for buffer in (self.keys, self.values):
            assert buffer is not None
            buffer[:, :, : end - start] = buffer[:, :, start:end]


def _grown(buffer: Tensor | None, rows: int, columns: int, like: Tensor) -> Tensor:
    """Return a buffer of at least these rows and columns with the same contents."""
    _, heads, _, size = like.shape
    old_rows, old_columns = (0, 0) if buffer is None else (buffer.shape[0], buffer.shape[2])
    if buffer is not None and old_rows >= rows and old_columns >= columns:
        return buffer
    capacity = max(old_columns, -(-columns // _STEP) * _STEP)
    grown = like.new_zeros(max(rows, old_rows), heads, capacity, size)
    if buffer is not None:
        grown[:old_rows, :, :old_columns] = buffer
    return grown


class DecodeBatch:
    """Sessions that generate side by side.

    A session's keys, values and memory live here while it is in the batch, and in its own cache
    before and afterwards; also where `join` or `leave` fails.

    Args:
        model: a model with an adapter attached.
        device: where its inputs go.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        # What sdpa takes is made here in one step; for others transformers makes it.
        config = model.config.get_text_config()
        self._ready_masks = getattr(config, "_attn_implementation", None) == "sdpa"
        self.sessions: list[Session] = []
        self._lengths: list[int] = []  # of the rows
        self._span = Span()
        self._cache: MemoryCache | None = None

    @staticmethod
    def takes(session: Session) -> bool:
        """Whether a session can be a row: only plain attention layers, and writes by token."""
        return not session.by_segment and all(
            type(layer) is DynamicLayer for layer in session.cache.layers
        )

    @torch.inference_mode()
    def join(self, session: Session) -> None:
        """Move a session in."""
        if self.sessions and session.length > self._span.end:
            self._make_way(session)
            return
        memory, cache, row = session.cache.memory, self._cache, len(self.sessions)
        if cache is None:
            self._span.end = session.length
            cache = MemoryCache(self.model)
            cache.layers = [RowLayer(self._span) for _ in session.cache.layers]
        else:
            memory = torch.cat([cache.memory, memory])
        end = self._span.end
        for ours, own in zip(cache.layers, session.cache.layers, strict=True):
            ours.reserve(row + 1, end, own.keys)
            ours.keys[row, :, end - session.length : end] = own.keys[0]
            ours.values[row, :, end - session.length : end] = own.values[0]
        cache.memory = memory
        for own in session.cache.layers:
            own.keys = own.values = None
        self._cache = cache
        self._lengths.append(session.length)
        self.sessions.append(session)
        session.batch = self

    def _make_way(self, session: Session) -> None:
        """Let a session in that is longer than there are columns: it comes first."""
        others = list(self.sessions)
        for other in others:
            self.leave(other)
        for each in (session, *others):
            self.join(each)

    @torch.inference_mode()
    def leave(self, session: Session) -> None:
        """Move a session out; the last row takes its place."""
        assert self._cache is not None
        row, last = self.sessions.index(session), len(self.sessions) - 1
        end, memory = self._span.end, self._cache.memory
        columns = slice(end - self._lengths[row], end)
        order = [*range(row), last, *range(row + 1, last)] if row != last else [*range(last)]
        kept = memory[torch.tensor(order, dtype=torch.long, device=memory.device)]
        taken = [
            (layer.keys[row : row + 1, :, columns].clone(),
             layer.values[row : row + 1, :, columns].clone())
            for layer in self._cache.layers
        ]  # fmt: skip
        for ours, own, (keys, values) in zip(
            self._cache.layers, session.cache.layers, taken, strict=True
        ):
            own.keys, own.values = keys, values
            if row != last:
                ours.keys[row] = ours.keys[last]
                ours.values[row] = ours.values[last]
        session.cache.memory = memory[row : row + 1].clone()
        session.batch = None
        self.sessions[row], self._lengths[row] = self.sessions[last], self._lengths[last]
        del self.sessions[last], self._lengths[last]
        if self.sessions:
            self._cache.memory = kept
        else:
            self._cache, self._span = None, Span()

    @torch.inference_mode()
    def step(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read one token of each session in the batch; return logits [V] for each feed."""
        assert self._cache is not None
        by_session = {feed.session: feed for feed in feeds}
        ordered = [by_session[session] for session in self.sessions]
        self._add_column()
        inputs = [[feed.ids[0], n] for feed, n in zip(ordered, self._lengths, strict=True)]
        ids, positions = torch.tensor(inputs, device=self.device)[:, :, None].unbind(1)
        writes = [feed.writes[0] for feed in ordered]
        write = all(writes) or torch.tensor([[flag] for flag in writes], device=self.device)
        try:
            output = self.model(
                input_ids=ids,
                attention_mask=self._mask(positions),
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                delta_mem=MemoryCall(write=write),
            )
        except BaseException:
            self._span.end -= 1
            raise
        self._lengths = [length + 1 for length in self._lengths]
        logits = dict(zip(self.sessions, output.logits[:, -1].unbind(), strict=True))
        return [logits[feed.session] for feed in feeds]

    def _add_column(self) -> None:
        """Begin a column for the tokens that are being read."""
        assert self._cache is not None
        span, longest, layers = self._span, max(self._lengths), self._cache.layers
        span.start = span.end - longest
        if span.end == min(layer.keys.shape[2] for layer in layers):
            if span.start >= longest:
                for layer in layers:
                    layer.to_front()
                span.start, span.end = 0, longest
            else:
                for layer in layers:
                    layer.reserve(len(self.sessions), span.end + 1, layer.keys)
        span.end += 1

    def _mask(self, positions: Tensor) -> Tensor | None:
        """Which columns a row has, [B, 1, 1, W] or [B, W]; None where all have all."""
        width = self._span.end - self._span.start
        if min(self._lengths) == width - 1:
            return None
        mask = torch.arange(width, device=self.device) >= width - 1 - positions
        return mask[:, None, None] if self._ready_masks else mask.long()
