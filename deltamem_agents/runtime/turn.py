"""One turn: (memory, messages) -> (reply, memory). What DESIGN calls exact resume happens here.

After every turn the memory is what one gets by reading, from the boundary, the canonical rendering
of the visible messages. A live session does so by reading on; a cold one by reading the window
again. Nothing else goes into it, so both arrive at the same value.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import DivergenceError, StateError
from deltamem_agents.runtime.history import read_history
from deltamem_agents.runtime.messages import Message, digest, digest_of, normalise
from deltamem_agents.runtime.session import Feed, Session
from deltamem_agents.runtime.template import RenderedMessage
from deltamem_agents.runtime.window import (
    Alignment,
    Item,
    align,
    at_boundary,
    evict,
    names_of,
    plan_cuts,
    with_visible,
)

if TYPE_CHECKING:
    from deltamem_agents.runtime.engine import Engine

Steps = Generator[Feed, Tensor, None]


@dataclass(frozen=True)
class Request:
    """What a caller asks of one turn.

    Args:
        state: the memory before it.
        messages: the conversation, oldest first.
        tools: JSON schemas of the tools.
        thinking: the template's `enable_thinking`.
        on_divergence: "raise", or "rebuild" from the boundary where the history allows it.
    """

    state: MemoryState
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    thinking: bool | None = None
    on_divergence: str = "raise"


@dataclass
class Progress:
    """What became of a turn so far; complete when its generator ends."""

    state: MemoryState | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


class Turn:
    """Reads new messages into a memory, through a live session or a new one.

    Args:
        engine: model, template and window.
        request: what is asked.

    Raises:
        MessageError: a message is malformed.
        StateError: the memory belongs to another adapter, backbone, tokenizer, template or write
            policy.
        DivergenceError: see `align`.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self.engine = engine
        self.request = request
        self.progress = Progress()
        self.before = request.state
        _check_fingerprint(self.before, engine.fingerprint)
        self.system, self.history = read_history(request.messages, engine.live.history(self.before))
        self.alignment = self._align()
        self.items = list(self.alignment.items)
        self.ledger = evict(self.before.ledger, self.alignment.lost)
        self.session: Session
        self.first = 0  # index of the first visible item
        self.counted = self.alignment.read  # items whose tokens are counted as written

    def _align(self) -> Alignment:
        try:
            return align(self.before.ledger, self.history.entries, self.history)
        except DivergenceError:
            if self.request.on_divergence != "rebuild":
                raise
            # The boundary is a memory that still agrees if the messages before it do.
            ledger, rolled = self.before.ledger, self.history.rolled
            if rolled[min(ledger.evicted_count, len(rolled) - 1)] != ledger.evicted:
                raise
            self.before = at_boundary(self.before)
            return align(self.before.ledger, self.history.entries, self.history)

    def render(
        self, first: int, end: int, *, generate: bool = False, follower: str | None = None
    ) -> tuple[RenderedMessage | None, list[RenderedMessage]]:
        """Render items as the model sees them.

        Args:
            first: index of the first item.
            end: index after the last.
            generate: add the generation prompt, as a last message.
            follower: role of a message to come, whose presence a template may take into account;
                it is not among the results.

        Returns:
            The pinned prompt and the messages.
        """
        messages = [item.entry for item in self.items[first:end]]
        if follower:
            messages.append({"role": follower, "content": ""})
        if self.system:
            messages.insert(0, self.system)
        parts = self.engine.template.render(
            messages, self.request.tools, thinking=self.request.thinking, generate=generate
        )
        pinned = parts.pop(0) if parts and parts[0].role == "system" else None
        if follower:
            parts.pop()
        for index, item in enumerate(self.items[first:end]):
            if not item.writes:
                parts[index] = replace(parts[index], writes=(False,) * len(parts[index]))
        return pinned, parts

    def measure(self, first: int, end: int, generate: bool) -> tuple[int, list[int]]:
        """Count tokens: outside of messages, and of each message."""
        pinned, parts = self.render(first, end, generate=generate)
        fixed = len(pinned) if pinned else 0
        if generate:
            fixed += len(parts.pop())
        return fixed, [len(part) for part in parts]

    def advance(self, *, generate: bool) -> Steps:
        """Bring the session to the end of the history, turns leaving the window on the way."""
        cuts = plan_cuts(
            self.items,
            self.alignment.read,
            self.measure,
            window=self.engine.context_window,
            low_water=self.engine.low_water,
            generate=generate,
        )
        yield from self._start()
        for cut in cuts:
            pinned, parts = self.render(self.first, cut.at)
            leaving = cut.start - self.first
            self._count(parts, self.first, cut.start)
            yield from self.session.sync(pinned, parts[:leaving])
            self.session.restart(self.session.memory)
            self.ledger = evict(self.ledger, names_of(self.items[self.first : cut.start]))
            self.first = cut.start

    def _start(self) -> Steps:
        """Find the live session or start one; write the pinned prompt in a first call."""
        session = None if self.alignment.lost else self.engine.live.take(self.before)
        if session is None:
            base = self.before.state if self.alignment.lost else self.before.boundary_state
            session = self.engine.new_session(base)
        self.session = session
        self._undo = (session.cache, session.length, session.memory, tuple(session.marks))
        if self.before.ledger == Ledger():
            pinned, _ = self.render(0, min(1, len(self.items)))
            if pinned is not None:
                yield from session.write_pinned(pinned)
                self.progress.written += sum(pinned.writes)
                self.ledger = replace(self.ledger, pinned=digest_of(pinned.ids))

    def _count(self, parts: Sequence[RenderedMessage], first: int, end: int) -> None:
        for index in range(max(first, self.counted), end):
            self.progress.written += sum(parts[index - first].writes)
        self.counted = max(self.counted, end)

    def settle(self, *, follower: str | None = None) -> Steps:
        """Read what is still unread, as later prompts will show it, and make the new memory."""
        pinned, parts = self.render(self.first, len(self.items), follower=follower)
        yield from self.session.sync(pinned, parts)
        self._count(parts, self.first, len(self.items))
        self.progress.state = MemoryState(
            state=_array(self.session.memory),
            boundary_state=_array(self.session.boundary),
            ledger=with_visible(self.ledger, self.items[self.first :]),
            tokens_written=self.before.tokens_written + self.progress.written,
            fingerprint=self.before.fingerprint,
        )
        self.session.history = self.history
        self.engine.live.put(self.progress.state, self.session)

    def abandon(self) -> None:
        """Give the live session back as it was; the memory before the turn stays valid."""
        if not hasattr(self, "_undo"):
            return
        cache, length, memory, marks = self._undo
        session = self.session
        same = session.cache is cache and len(session.marks) >= len(marks)
        if same and all(old is new for old, new in zip(marks, session.marks, strict=False)):
            session.back_to(length, memory, len(marks))
            if session.whole:
                self.engine.live.put(self.before, session)

    def follower(self) -> str | None:
        """Return the role of the message that comes next, if the last one tells."""
        last = self.items[-1].entry if self.items else None
        if last is None or last["role"] != "assistant":
            return None
        return "tool" if last["tool_calls"] else "user"

    def add_reply(self, message: Mapping[str, Any]) -> None:
        """Append the reply to the items, as a message that is now visible."""
        entry = normalise([message])[0]
        self.items.append(Item(entry, digest(entry)))


def read_turn(turn: Turn) -> Steps:
    """Read a history into the memory without an answer."""
    try:
        yield from turn.advance(generate=False)
        yield from turn.settle(follower=turn.follower())
    except BaseException:
        turn.abandon()
        raise


def _check_fingerprint(state: MemoryState, fingerprint: str) -> None:
    if state.fingerprint != fingerprint:
        raise StateError(
            "a memory is used with the adapter, backbone, tokenizer, template and write policy "
            "that made it",
            got=f"a memory of {state.fingerprint[:12]}, a model of {fingerprint[:12]}",
            remedy="Load the model the memory was made with, or start from an empty memory.",
        )


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = tensor.to("cpu", torch.float32).numpy()
    return array
