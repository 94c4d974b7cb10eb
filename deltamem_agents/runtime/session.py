"""One live conversation: keys and values of the window, the memory, and what was read where.

Methods that read are generators: they yield `Feed`s, and whoever drives them runs the model, alone
or in a batch with other sessions. A session belongs to one turn at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from deltamem_agents.adapter import MemoryCache
from deltamem_agents.adapter.history import TAIL
from deltamem_agents.runtime.history import History
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

    ids: Sequence[int]
    writes: Sequence[bool]
    start: int
    state: Tensor | None
    open: bool = False  # it is still being generated: ids and writes are lists that grow

    def begins(self, message: RenderedMessage) -> bool:
        """Whether a message goes on where this one stops."""
        length = len(self.ids)
        return (
            len(message.ids) > length
            and message.ids[:length] == tuple(self.ids)
            and message.writes[:length] == tuple(self.writes)
        )


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
        self.history: History | None = None  # of the turn that it was last part of
        self.batch: Any = None  # the DecodeBatch that holds keys, values and memory for now

    def leave_batch(self) -> None:
        """Take keys, values and memory back from the batch that holds them."""
        if self.batch is not None:
            self.batch.leave(self)

    @property
    def memory(self) -> Tensor:
        """The memory now, float32 [layers, H, R, R], a copy."""
        self.leave_batch()
        return self.cache.memory[0].detach()

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and kept memories, and characters of the history."""
        self.leave_batch()
        layers = [layer for layer in self.cache.layers if layer.is_initialized]
        kept = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        kept += [mark.state for mark in self.marks if mark.state is not None]
        texts = self.history.size if self.history else 0
        return texts + int(sum(tensor.numel() * tensor.element_size() for tensor in kept))

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

    def write_pinned(self, pinned: RenderedMessage) -> Reading:
        """Write system prompt and tools; what follows starts from the memory after them."""
        yield from self._feed(pinned.ids, pinned.writes)
        self.restart(self.memory)
        return None

    def sync(
        self,
        pinned: RenderedMessage | None,
        messages: Sequence[RenderedMessage],
        opening: RenderedMessage | None = None,
    ) -> Reading:
        """Make the window hold exactly these messages; what is there already costs nothing.

        Args:
            pinned: system prompt and tools, which are read without writing.
            messages: the conversation.
            opening: what opens a message that will be generated, to be read after them.

        Returns:
            Logits [V] after the last token, or None where nothing had to be read.
        """
        self.leave_batch()
        logits: Tensor | None = None
        lead = None
        if not self.length or self.pinned != pinned:
            self.restart()
            self.pinned = lead = pinned
        agreed = 0
        while agreed < min(len(self.marks), len(messages)):
            mark, message = self.marks[agreed], messages[agreed]
            if mark.open or mark.ids != message.ids or mark.writes != message.writes:
                break
            agreed += 1
        if agreed < len(self.marks):
            mark = self.marks[-1]
            grows = agreed == len(self.marks) - 1 and mark.open and agreed < len(messages)
            if grows and mark.begins(messages[agreed]):
                logits = yield from self._finish(messages[agreed])
            else:
                self.rewind(agreed)
        calls = list(self._calls(lead, messages[len(self.marks) :], opening))
        for number, call in enumerate(calls):
            opens = opening is not None and number == len(calls) - 1
            logits = yield from self._read(call, leads=lead is not None and not number, opens=opens)
        return logits

    def extend(self, token: int, writes: bool) -> Reading:
        """Read a token of the message that is being generated."""
        mark = self.marks[-1]
        mark.ids.append(token)  # type: ignore[attr-defined]
        mark.writes.append(writes)  # type: ignore[attr-defined]
        return (yield from self._feed([token], [writes], closes=False))

    def _finish(self, message: RenderedMessage) -> Reading:
        """Read the rest of a generated message."""
        mark = self.marks.pop()
        done = len(mark.ids)
        logits = yield from self._feed(message.ids[done:], message.writes[done:])
        self.marks.append(Mark(message.ids, message.writes, mark.start, mark.state))
        return logits

    def _calls(
        self,
        lead: RenderedMessage | None,
        messages: Sequence[RenderedMessage],
        opening: RenderedMessage | None,
    ) -> Iterator[list[RenderedMessage]]:
        """Cut what is to be read into calls, as few as keep the memories worth keeping.

        Those are the ones before the first of the messages, before the last question, and before a
        message that will be generated, which can still be told when that is at the call's end. An
        adapter that writes by message has a call for each.
        """
        first = [] if lead is None else [replace(lead, writes=(False,) * len(lead))]
        last = [] if opening is None else [opening]
        if self.by_segment:
            yield from ([part] for part in (*first, *messages, *last))
            return
        question = max((n for n, m in enumerate(messages) if m.role == "user"), default=0)
        calls = [call for call in ([*messages[:question]], [*messages[question:]]) if call] or [[]]
        calls[0] = first + calls[0]
        if opening is not None and _is_cut(sum(map(len, calls[-1])), len(opening)):
            calls.append([])
        calls[-1] = calls[-1] + last
        yield from (call for call in calls if call)

    def _read(
        self, parts: Sequence[RenderedMessage], *, leads: bool = False, opens: bool = False
    ) -> Reading:
        """Read messages in one call.

        Args:
            parts: the messages.
            leads: the first one is the pinned prompt.
            opens: the last one is the beginning of a message that will be generated.
        """
        state: Tensor | None = self.memory
        start = self.length
        ids = [token for part in parts for token in part.ids]
        writes = [flag for part in parts for flag in part.writes]
        for place, part in enumerate(parts):
            if opens and place == len(parts) - 1:
                self.marks.append(Mark(list(part.ids), list(part.writes), start, state, True))
            elif place or not leads:
                self.marks.append(Mark(part.ids, part.writes, start, state))
                state = None
            start += len(part)
        logits = yield from self._feed(ids, writes, closes=not opens)
        if opens and state is None:
            before = self.cache.memory_before(len(parts[-1]))[0].detach()
            self.marks[-1] = replace(self.marks[-1], state=before)
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


def _is_cut(before: int, opening: int) -> bool:
    """Whether an opening after so many tokens could not be taken back as the end of one feed.

    One that would begin a feed of its own is read by itself: a single token may be decoded in a
    batch with other sessions, and then this session's cache does not know what was before.
    """
    inside = before % CHUNK
    return opening > TAIL or inside == 0 or inside + opening > CHUNK
