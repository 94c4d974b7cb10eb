"""One decode step for many sessions: a row each, with its own length and its own memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from deltamem_agents.adapter import MemoryCache, MemoryCall
from deltamem_agents.runtime.session import Feed, Session

_STEP = 256  # rows grow by this many positions


class Rows:
    """What the layers of a batch share: how far each row is.

    Attributes:
        lengths: int64 [B], tokens in each row.
        width: the longest row's length after the token that is being read.
    """

    def __init__(self, device: torch.device) -> None:
        self.lengths = torch.zeros(0, dtype=torch.long, device=device)
        self.width = 0

    @property
    def index(self) -> Tensor:
        """The numbers of the rows, [B]."""
        return torch.arange(self.lengths.shape[0], device=self.lengths.device)


class RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values [B, heads, capacity, d], of which row b holds `lengths[b]` positions."""

    is_sliding = False

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.rows = rows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Rows are put in by `DecodeBatch.join`."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store one token a row; return all rows up to the longest one's end."""
        rows, count = self.rows, key_states.shape[0]
        self.keys = keys = _grown(self.keys, count, rows.width, key_states)
        self.values = values = _grown(self.values, count, rows.width, value_states)
        if count == 1:
            place = rows.width - 1
            keys[:1, :, place] = key_states[:, :, 0]
            values[:1, :, place] = value_states[:, :, 0]
        else:
            keys[rows.index, :, rows.lengths] = key_states[:, :, 0]
            values[rows.index, :, rows.lengths] = value_states[:, :, 0]
        return keys[:count, :, : rows.width], values[:count, :, : rows.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query sees."""
        return self.rows.width, 0

    def get_seq_length(self) -> int:
        """Length of the longest row, without the token that is being read."""
        return max(0, self.rows.width - 1)

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1

    def put(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Fill a row, growing where needed.

        Args:
            row: its number; at most one above the last.
            keys: [1, heads, T, d].
            values: the same shape.
        """
        length = keys.shape[2]
        self.keys = _grown(self.keys, row + 1, length + 1, keys)
        self.values = _grown(self.values, row + 1, length + 1, values)
        self.keys[row, :, :length] = keys[0]
        self.values[row, :, :length] = values[0]
        self.is_initialized = True


def _grown(buffer: Tensor | None, rows: int, width: int, like: Tensor) -> Tensor:
    """Return a buffer of at least these rows and positions with the same contents."""
    _, heads, _, size = like.shape
    if buffer is not None and buffer.shape[0] >= rows and buffer.shape[2] >= width:
        return buffer
    old_rows, old_width = (buffer.shape[0], buffer.shape[2]) if buffer is not None else (0, 0)
    capacity = max(old_width, -(-width // _STEP) * _STEP)
    grown = like.new_zeros(max(rows, old_rows), heads, capacity, size)
    if buffer is not None:
        grown[:old_rows, :, :old_width] = buffer
    return grown


class DecodeBatch:
    """Sessions that generate side by side.

    A session's keys, values and memory live here while it is in the batch, and in its own cache
    before and afterwards.

    Args:
        model: a model with an adapter attached.
        device: where its inputs go.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.sessions: list[Session] = []
        self._rows = Rows(device)
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
        memory = session.cache.memory
        if self._cache is None:
            self._cache = MemoryCache(self.model, memory=memory)
            self._cache.layers = [RowLayer(self._rows) for _ in session.cache.layers]
        else:
            self._cache.memory = torch.cat([self._cache.memory, memory])
        row = len(self.sessions)
        for ours, own in zip(self._cache.layers, session.cache.layers, strict=True):
            ours.put(row, own.keys, own.values)
            own.keys = own.values = None
        length = torch.tensor([session.length], device=self.device)
        self._rows.lengths = torch.cat([self._rows.lengths, length])
        self.sessions.append(session)
        session.batch = self

    @torch.inference_mode()
    def leave(self, session: Session) -> None:
        """Move a session out; the last row takes its place."""
        assert self._cache is not None
        row, last = self.sessions.index(session), len(self.sessions) - 1
        length = int(self._rows.lengths[row])
        memory = self._cache.memory
        for ours, own in zip(self._cache.layers, session.cache.layers, strict=True):
            own.keys = ours.keys[row : row + 1, :, :length].clone()
            own.values = ours.values[row : row + 1, :, :length].clone()
            if row != last:
                end = int(self._rows.lengths[last])
                ours.keys[row, :, :end] = ours.keys[last, :, :end]
                ours.values[row, :, :end] = ours.values[last, :, :end]
        session.cache.memory = memory[row : row + 1].clone()
        session.batch = None
        self.sessions[row] = self.sessions[last]
        self.sessions.pop()
        if not self.sessions:
            self._cache, self._rows = None, Rows(self.device)
            return
        order = [*range(row), last, *range(row + 1, last)] if row != last else [*range(last)]
        kept = torch.tensor(order, device=self.device)
        self._cache.memory = memory[kept]
        self._rows.lengths = self._rows.lengths[kept]

    @torch.inference_mode()
    def step(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read one token of each session in the batch; return logits [V] for each feed."""
        assert self._cache is not None
        by_session = {feed.session: feed for feed in feeds}
        ordered = [by_session[session] for session in self.sessions]
        rows = self._rows
        rows.width = int(rows.lengths.max()) + 1
        count = len(ordered)
        mask = None
        if count > 1:
            mask = torch.arange(rows.width, device=self.device) <= rows.lengths[:, None]
        write = torch.tensor([[feed.writes[0]] for feed in ordered], device=self.device)
        output = self.model(
            input_ids=torch.tensor([[feed.ids[0]] for feed in ordered], device=self.device),
            attention_mask=None if mask is None else mask.long(),
            position_ids=rows.lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            delta_mem=MemoryCall(
                write=True if bool(write.all()) else write,
                token_mask=None if mask is None else torch.ones_like(write),
            ),
        )
        rows.lengths = rows.lengths + 1
        logits = dict(zip(self.sessions, output.logits[:, -1], strict=True))
        return [logits[feed.session] for feed in feeds]
