"""One live conversation: keys and values of the window, the memory, and what was read where.

Methods that read are generators: they yield `Feed`s, and whoever drives them runs the model, alone
or in a batch with other sessions. A session belongs to one turn at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from deltamem_agents.adapter import MemoryCache
from deltamem_agents.runtime.template import RenderedMessage

CHUNK = 512  # tokens of one forward call while reading; other sessions run in between


@dataclass(frozen=True, eq=False)
class Feed:
    """A piece of a conversation for the model to read.

    Args:
        session: whose.
        ids: token ids.
        writes: for each, whether it is written.
        closes: whether a message ends with it (for adapters that write by message).
    """

    session: Session
    ids: Sequence[int]
    writes: Sequence[bool]
    closes: bool = True


Reading = Generator[Feed, Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class Mark:
    """A message that was read: where it starts, and the memory [layers, H, R, R] there if kept."""

    ids: tuple[int, ...]
    writes: tuple[bool, ...]
    start: int
    state: Tensor | None
    open: bool = False  # it is still being generated


class Session:
    """A live conversation.

    Args:
        model: a model with an adapter attached.
        boundary: the memory at the first visible message, float32 [layers, H, R, R].
        by_segment: whether the adapter writes by message.
    """

    def __init__(self, model: Any, boundary: Tensor, *, by_segment: bool = False) -> None:
        self.model = model
        self.boundary = boundary
        self.by_segment = by_segment
        self.cache = MemoryCache(model, memory=boundary[None])
        self.pinned: RenderedMessage | None = None
        self.marks: list[Mark] = []
        self.length = 0
        self.fed = 0  # tokens read in this session's life
        self.batch: Any = None  # the DecodeBatch that holds keys, values and memory for now

    def leave_batch(self) -> None:
        """Take keys, values and memory back from the batch that holds them."""
        if self.batch is not None:
            self.batch.leave(self)

    @property
    def memory(self) -> Tensor:
        """The memory now, float32 [layers, H, R, R], a copy."""
        self.leave_batch()
        return self.cache.memory[0].detach().clone()

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and kept memories."""
        self.leave_batch()
        layers = [layer for layer in self.cache.layers if layer.is_initialized]
        kept = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        kept += [mark.state for mark in self.marks if mark.state is not None]
        return int(sum(tensor.numel() * tensor.element_size() for tensor in kept))

    @property
    def whole(self) -> bool:
        """Whether every layer holds the whole window: a forward pass may have failed half-way."""
        layers = [layer for layer in self.cache.layers if layer.is_initialized]
        return all(int(layer.get_seq_length()) == self.length for layer in layers)

    def holds(self, state: np.ndarray[Any, Any], boundary: np.ndarray[Any, Any]) -> bool:
        """Whether this is the conversation of these two arrays, to the bit."""
        return bool(
            np.array_equal(self.memory.cpu().numpy(), state)
            and np.array_equal(self.boundary.cpu().numpy(), boundary)
        )

    def restart(self, boundary: Tensor | None = None) -> None:
        """Forget the window; go on from the boundary, or from a new one."""
        self.leave_batch()
        if boundary is not None:
            self.boundary = boundary
        self.cache = MemoryCache(self.model, memory=self.boundary[None])
        self.pinned, self.marks, self.length = None, [], 0

    def rewind(self, count: int) -> None:
        """Go back to before message `count`, or to the nearest earlier one whose memory is kept."""
        if count >= len(self.marks):
            return
        while self.marks[count].state is None:
            count -= 1
        mark = self.marks[count]
        assert mark.state is not None
        self.back_to(mark.start, mark.state, count)

    def back_to(self, length: int, memory: Tensor, count: int) -> None:
        """Go back to a length of the window, a memory and a number of messages."""
        self.leave_batch()
        self.cache.discard_segments()
        if self.length > length:
            self.cache.crop_kv(self.length - length)
        self.cache.memory = memory[None]
        self.length, self.marks = length, self.marks[:count]

    def read_pinned(self, pinned: RenderedMessage | None) -> Reading:
        """Read system prompt and tools without writing, unless they are the ones in view."""
        if self.length and self.pinned == pinned:
            return None
        self.restart()
        self.pinned = pinned
        if pinned is None:
            return None
        return (yield from self._feed(pinned.ids, [False] * len(pinned.ids)))

    def write_pinned(self, pinned: RenderedMessage) -> Reading:
        """Write system prompt and tools; what follows starts from the memory after them."""
        yield from self._feed(pinned.ids, pinned.writes)
        self.restart(self.memory)
        return None

    def sync(self, pinned: RenderedMessage | None, messages: Sequence[RenderedMessage]) -> Reading:
        """Make the window hold exactly these messages; what is there already costs nothing.

        Returns:
            Logits [V] after the last token, or None where nothing had to be read.
        """
        self.leave_batch()
        logits = yield from self.read_pinned(pinned)
        agreed = 0
        while agreed < min(len(self.marks), len(messages)):
            mark, message = self.marks[agreed], messages[agreed]
            if mark.open or mark.ids != message.ids or mark.writes != message.writes:
                break
            agreed += 1
        if agreed < len(self.marks):
            if agreed == len(self.marks) - 1 and self._grows_into(messages[agreed:]):
                logits = yield from self._finish(messages[agreed])
            else:
                self.rewind(agreed)
        while len(self.marks) < len(messages):
            logits = yield from self._read_some(messages[len(self.marks) :])
        return logits

    def open_message(self, prompt: RenderedMessage) -> Reading:
        """Begin a message that will be generated: read what opens it."""
        self.marks.append(Mark(prompt.ids, prompt.writes, self.length, self.memory, open=True))
        return (yield from self._feed(prompt.ids, prompt.writes, closes=False))

    def extend(self, token: int, writes: bool) -> Reading:
        """Read a token of the message that is being generated."""
        mark = self.marks[-1]
        self.marks[-1] = Mark(
            (*mark.ids, token), (*mark.writes, writes), mark.start, mark.state, True
        )
        return (yield from self._feed([token], [writes], closes=False))

    def _grows_into(self, messages: Sequence[RenderedMessage]) -> bool:
        mark, length = self.marks[-1], len(self.marks[-1].ids)
        return (
            bool(messages)
            and mark.open
            and len(messages[0].ids) > length
            and messages[0].ids[:length] == mark.ids
            and messages[0].writes[:length] == mark.writes
        )

    def _finish(self, message: RenderedMessage) -> Reading:
        """Read the rest of a generated message."""
        mark = self.marks.pop()
        done = len(mark.ids)
        logits = yield from self._feed(message.ids[done:], message.writes[done:])
        self.marks.append(Mark(message.ids, message.writes, mark.start, mark.state))
        return logits

    def _read_some(self, messages: Sequence[RenderedMessage]) -> Reading:
        """Read messages up to the next one whose memory is worth keeping: a question."""
        state = self.memory
        count = 1
        while not self.by_segment and count < len(messages) and messages[count].role != "user":
            count += 1
        start = self.length
        ids = [token for message in messages[:count] for token in message.ids]
        writes = [flag for message in messages[:count] for flag in message.writes]
        logits = yield from self._feed(ids, writes)
        for index, message in enumerate(messages[:count]):
            self.marks.append(
                Mark(message.ids, message.writes, start, state if index == 0 else None)
            )
            start += len(message)
        return logits

    def _feed(self, ids: Sequence[int], writes: Sequence[bool], closes: bool = True) -> Reading:
        logits: Tensor | None = None
        for first in range(0, len(ids), CHUNK):
            last = first + CHUNK >= len(ids)
            part = Feed(
                self, ids[first : first + CHUNK], writes[first : first + CHUNK], closes and last
            )
            logits = yield part
            self.length += len(part.ids)
            self.fed += len(part.ids)
        return logits
