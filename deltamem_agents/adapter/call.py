"""What one forward call says to the memory, and the context that its layers share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltamem_agents.adapter.decoding import Decoding
from deltamem_agents.adapter.history import Left, Undo
from deltamem_agents.adapter.segments import Sums
from deltamem_agents.adapter.store import MemoryStore, WriteRecord
from deltamem_agents.errors import BoundaryError, StateError, UnsupportedModelError

if TYPE_CHECKING:
    from deltamem_agents.adapter.memory import DeltaMemory
    from deltamem_agents.adapter.rollback import Before


@dataclass(frozen=True, eq=False)
class MemoryCall:
    """How the tokens of one call are written; passed as `model(..., delta_mem=MemoryCall(...))`.

    Without one, every token writes, except in padding.

    Args:
        segment_ids: for adapters that write by message or sentence: [B, T] integers, the segment
            of each token, -1 for a token in none; or one integer for all tokens of the call. All
            segments of a call read the state from before the call and are written in the order of
            their numbers.
        write: whether tokens write, for all of them or [B, T]; a token that does not write still
            reads.
        record: keep the gates of this call, with their gradient, in `cache.records`.
        closes: for segment writes: False if the segments go on in the next call; their sums are
            kept in the cache, and written by the call that closes them or by `close_segments`.
        token_mask: Bool[B, T], False in padding; needed where the attention mask does not tell (an
            attention implementation with a mask object of its own, or a loop other than `generate`
            that goes on feeding rows which have ended).
    """

    segment_ids: Tensor | int | None = None
    write: bool | Tensor = True
    record: bool = False
    closes: bool = True
    token_mask: Tensor | None = None


@dataclass(eq=False)
class CallContext:
    """One forward call as its layers see it; made where the decoder's forward begins.

    Nothing that outlives the call changes before `land`. States from before the call are pinned in
    `initial`, so that a layer that is run again (gradient checkpointing) reads what it read before;
    `sealed` keeps such a second run from leaving anything. `home` is the store that the call's
    memories came from, `store` what the call works on: the same, or a copy with a row for each beam
    or sample. `single` is a call of one token, written by itself with nothing to
    mask or record, for which there is a short way. `running` are the adapters that are switched
    on, by layer. `checkpointed` says that layers will be run
    again, `carries_graph` that gradients are to flow through the cache.
    """

    store: MemoryStore
    home: MemoryStore
    batch: int
    length: int
    token_mask: Tensor | None
    write: bool
    write_mask: Tensor | None
    segment_ids: Tensor | None
    closes: bool
    record: bool
    single: bool = False
    autocast: bool = False
    checkpointed: bool = False
    carries_graph: bool = False
    running: dict[int, DeltaMemory] = field(default_factory=dict)
    initial: dict[int, Tensor] = field(default_factory=dict)
    left: dict[int, Left] = field(default_factory=dict)
    records: list[WriteRecord] = field(default_factory=list)
    before: Before | None = None
    after: MemoryStore | None = None
    decoding: Decoding | None = None
    sealed: bool = False

    def decode(self, hidden: Tensor, layer: int) -> dict[str, Tensor] | None:
        """A layer's corrections by the short way, or None where it cannot be taken."""
        if not self.single or torch.is_grad_enabled():
            return None
        if self.decoding is None:
            self.decoding = Decoding(self, hidden)
        return self.decoding.read(hidden, self, layer)

    def leave(
        self, layer: int, state: Tensor, undo: Undo | None = None, sums: Sums | None = None
    ) -> None:
        """What a layer leaves behind; the memory takes it when the whole forward has run."""
        if not self.sealed:
            self.left[layer] = (state, undo, sums)

    def land(self) -> None:
        """Hand over what the layers left: the forward has run."""
        self.after = self.store.after(self.left, self.records if self.record else None)
        self.after.length = None if self.before is None else self.before.reached
        self.home.become(self.after)
        self.before = None
        self.left.clear()
        self.after = None

    def give_up(self) -> None:
        """Put keys and values back as the memory is, as it was: the forward has failed."""
        self.sealed = True
        if self.after is not None and self.home.states is self.after.states:
            return  # stopped when all had been handed over
        self.left.clear()
        if self.before is not None:
            self.home.torn = self.before.kinds  # until they have been put back
            self.home.torn = self.before.restore()


# FSDP copies the dataclasses among a layer's keywords, and what the layer leaves would be lost with
# the copy: to the outside a context is none.
del CallContext.__dataclass_fields__


def build_context(
    call: MemoryCall,
    home: MemoryStore,
    *,
    repeats: int,
    batch: int,
    length: int,
    device: torch.device,
    token_mask: Tensor | None,
    by_segment: bool,
) -> CallContext:
    """Check a `MemoryCall` against the tokens it came with.

    Args:
        call: what was said.
        home: memories of the sessions.
        repeats: rows that each session has in this batch.
        batch: rows B.
        length: tokens a row T.
        device: of the tokens.
        token_mask: Bool[B, T], False in padding, or None.
        by_segment: whether the adapter writes by message or sentence.

    Raises:
        StateError: a mask of another shape than [batch, length].
        BoundaryError: writes go by segment and these are not known, or of another shape.
    """
    if call.token_mask is not None:
        token_mask = _fitting("token_mask", call.token_mask, batch, length, device).bool()
    write, write_mask = True, None
    if isinstance(call.write, Tensor):
        write_mask = _fitting("write", call.write, batch, length, device).bool()
    else:
        write = bool(call.write)
    segments = None
    if by_segment and write:
        segments = _segments(call.segment_ids, batch, length, device)
        if write_mask is not None:
            segments = segments.masked_fill(~write_mask, -1)
            write_mask = None
        if token_mask is not None:
            segments = segments.masked_fill(~token_mask, -1)
    store = home if repeats == 1 else home.repeated(repeats)
    context = CallContext(
        store, home, batch, length, token_mask, write, write_mask, segments, call.closes,
        call.record,
    )  # fmt: skip
    context.autocast = torch.is_autocast_enabled(device.type)
    unmasked = token_mask is None and write_mask is None and segments is None
    context.single = (
        length == 1 and write and unmasked and not call.record
    )  # fmt: skip
    return context


def _segments(given: Any, batch: int, length: int, device: torch.device) -> Tensor:
    if given is None:
        raise BoundaryError(
            "an adapter that writes by message or sentence is told the segment of each token",
            got="no segment_ids",
            remedy="Pass delta_mem=MemoryCall(segment_ids=...), or MemoryCall(write=False) to "
            "read only.",
        )
    if isinstance(given, int):
        return torch.full((batch, length), given, dtype=torch.long, device=device)
    if tuple(given.shape) != (batch, length):
        raise BoundaryError(
            f"segment_ids has the shape [{batch}, {length}] of the call's tokens",
            got=tuple(given.shape),
            remedy="Give each token of the call its segment, and padding -1.",
        )
    return given.to(device).long()  # type: ignore[no-any-return]


def _fitting(name: str, value: Tensor, batch: int, length: int, device: torch.device) -> Tensor:
    if tuple(value.shape) != (batch, length):
        raise StateError(
            f"{name} has the shape [{batch}, {length}] of the call's tokens",
            got=tuple(value.shape),
            remedy="Give each token of the call True or False, padding too.",
        )
    return value.to(device)


def token_mask_from(mask: Any, length: int, past: int) -> Tensor | None:
    """Bool[B, T], True for real tokens, from whatever mask the decoder was given.

    2-D masks end at the newest token, or (static caches) have a column for every slot. 4-D masks
    are boolean (True = attend) or additive (0 = attend); a token is real if it attends to itself.

    Raises:
        UnsupportedModelError: a mask of another kind.
    """
    if mask is None:
        return None
    if isinstance(mask, dict):
        return token_mask_from(
            mask.get("full_attention", next(iter(mask.values()), None)), length, past
        )
    if not isinstance(mask, Tensor):
        raise UnsupportedModelError(
            "padding can be told from the attention mask",
            got=type(mask).__name__,
            remedy="Pass delta_mem=MemoryCall(token_mask=...).",
        )
    if mask.dim() == 2:
        columns = mask.shape[1]
        start = columns - length if columns <= past + length else past
        return mask[:, start : start + length] != 0
    if mask.dim() != 4:
        raise UnsupportedModelError(
            "an attention mask has 2 or 4 dimensions",
            got=mask.dim(),
            remedy="Pass a mask [batch, tokens], or MemoryCall(token_mask=...).",
        )
    rows = torch.arange(length, device=mask.device)
    columns = mask.shape[-1]
    first = columns - length if columns <= past + length else past
    own = mask[:, 0, rows, rows + first]
    return own if own.dtype == torch.bool else own == 0
