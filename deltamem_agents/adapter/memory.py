"""One adapter in one layer: a call's reads and writes.

Letters: B batch, T tokens, H state heads, R rank, d hidden width, S = R H, M segments.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deltamem_agents.adapter.call import CallContext
from deltamem_agents.adapter.corrections import Correction
from deltamem_agents.adapter.history import TAIL, Undo
from deltamem_agents.adapter.packing import Packed
from deltamem_agents.adapter.projections import Projections
from deltamem_agents.adapter.segments import Sums, add_sums, segment_sums
from deltamem_agents.adapter.store import WriteRecord
from deltamem_agents.core.scan import delta_scan
from deltamem_agents.core.step import memory_step, unpack
from deltamem_agents.errors import UnsupportedModelError

#: Of a segment write this many tokens can be taken back: their hidden states are kept.
SEGMENT_TAIL = 64

Gates = tuple[Tensor, Tensor, Tensor]
Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class DeltaMemory(Projections):
    """δ-mem in one attention layer: parameters (see `Projections`), reading and writing."""

    #: In its model.
    name = ""

    #: Whether its values are still to come from a file.
    awaited = False

    def forward(self, hidden: Tensor, context: CallContext, layer: int) -> Mapping[str, Correction]:
        """Read, write, and turn the reads into corrections (paper eqs. 4-12).

        Args:
            hidden: input of the attention module, [B, T, d].
            context: the call; its store takes the new state.
            layer: index of the decoder layer.

        Returns:
            each correction by name, [B, T, out].
        """
        if context.autocast:
            with torch.autocast(hidden.device.type, enabled=False):
                return self._forward(hidden, context, layer)
        return self._forward(hidden, context, layer)

    def _forward(
        self, hidden: Tensor, context: CallContext, layer: int
    ) -> Mapping[str, Correction]:
        packed = self.ready()
        if context.single and not torch.is_grad_enabled():
            before = context.store.get(layer, context.batch, hidden.device)
            projected = self.project(hidden.float(), packed).view(context.batch, -1)
            reads, after = memory_step(projected, before, self.rule, self.scale)
            context.leave(layer, after, Undo(1, before))
            return self.corrections(reads.view(context.batch, 1, -1), hidden.dtype, packed)
        x = hidden if hidden.dtype == torch.float32 else hidden.float()
        reads = self._read_and_write(x, context, layer, packed).flatten(-2)
        return self.corrections(reads * self.scale, hidden.dtype, packed)

    def _read_and_write(
        self, x: Tensor, context: CallContext, layer: int, packed: Packed | None
    ) -> Tensor:
        if context.carries_graph and not context.sealed and not torch.is_grad_enabled():
            raise UnsupportedModelError(
                "gradients flow through the memory",
                got="reentrant gradient checkpointing, which runs layers without a graph",
                remedy='Use activation_checkpointing_enable({"use_reentrant": False}).',
            )
        before = context.initial.get(layer)
        if before is None:
            before = context.store.get(layer, x.shape[0], x.device)
            context.initial[layer] = before
        q, k, v, keep, erase, beta = unpack(self.project(x, packed), self.rule)
        if not context.write or context.segment_ids is not None:
            reads = torch.einsum("bhij,bthj->bthi", before, q)
            if context.token_mask is not None:
                reads = reads * context.token_mask[:, :, None, None]
            if context.segment_ids is None:
                self._settle(context, layer, before, x.shape[1])
            else:
                self._write_segments(x, before, context, layer)
            return reads
        parts = (q, k, v, *_masked(keep, erase, beta, context.write_mask))
        if torch.is_grad_enabled():
            reads, after = delta_scan(*parts, before, context.token_mask)
            undo = None
        else:
            reads, after, undo = _scan_for_undo(parts, before, context.token_mask)
        if context.record and not context.sealed:
            context.records.append(WriteRecord(layer, beta, keep, _written(beta, context)))
        context.leave(layer, after, undo)
        return reads

    def _settle(self, context: CallContext, layer: int, before: Tensor, length: int) -> None:
        """Keep a state that this call only reads, so that the memory knows its batch."""
        sums = context.store.sums.get(layer)
        undo = Undo(length, before, sums, lambda _: (before, sums))
        context.leave(layer, before, None if torch.is_grad_enabled() else undo, sums)

    def _write_segments(self, x: Tensor, before: Tensor, context: CallContext, layer: int) -> None:
        store, ids = context.store, context.segment_ids
        assert ids is not None
        cut = max(x.shape[1] - SEGMENT_TAIL, 0)
        open_sums = store.sums.get(layer)
        if cut:
            open_sums = add_sums(open_sums, segment_sums(x[:, :cut], ids[:, :cut]))
        x, ids = x[:, cut:].clone() if cut else x, ids[:, cut:]

        def write(tokens: int, context: CallContext | None = None) -> tuple[Tensor, Sums | None]:
            sums = add_sums(open_sums, segment_sums(x[:, :tokens], ids[:, :tokens]))
            if not closes:
                return before, sums
            return self.write_means(sums, before, context, layer), None

        closes = context.closes
        after, sums = write(x.shape[1], context)
        undo = Undo(x.shape[1], before, open_sums, write)
        context.leave(layer, after, None if torch.is_grad_enabled() else undo, sums)

    def write_means(
        self, sums: Sums, before: Tensor, context: CallContext | None, layer: int
    ) -> Tensor:
        """Write one mean a segment (eqs. 14-15), in the order of the segments' numbers.

        Args:
            sums: hidden states summed by segment [B, M, d], and their count [B, M]; a segment
                without tokens is not written.
            before: state [B, H, R, R].
            context: the call, for its records.
            layer: index of the decoder layer.
        """
        total, count = sums
        if total.shape[1] == 0:
            return before
        present = count > 0
        means = self.project(total / count.clamp_min(1)[..., None], self.ready())
        q, k, v, keep, erase, beta = unpack(means, self.rule)
        after = delta_scan(q, k, v, keep, erase, beta, before, present)[1]
        if context is not None and context.record and not context.sealed:
            context.records.append(WriteRecord(layer, beta, keep, present))
        return after


def _masked(keep: Tensor, erase: Tensor, write: Tensor, mask: Tensor | None) -> Gates:
    """Gates that leave the state as it is where a token does not write."""
    if mask is None:
        return keep, erase, write
    here = mask[:, :, None, None]
    return torch.where(here, keep, 1.0), torch.where(here, erase, 0.0), write * here


def _scan_for_undo(
    parts: Parts, before: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Undo]:
    """`delta_scan`, and how to take its newest tokens back.

    Of a long call only the last tokens are kept, so that what is remembered stays small.
    """
    cut = parts[0].shape[1] - TAIL
    head = None
    if cut > TAIL:
        head, before = _scan(parts, slice(0, cut), before, mask)
        parts = tuple(part[:, cut:].clone() for part in parts)  # type: ignore[assignment]
        mask = None if mask is None else mask[:, cut:]
    reads, after = delta_scan(*parts, before, mask)
    if head is not None:
        reads = torch.cat([head, reads], 1)

    def replay(tokens: int) -> tuple[Tensor, None]:
        return _scan(parts, slice(0, tokens), before, mask)[1], None

    return reads, after, Undo(parts[0].shape[1], before, None, replay)


def _scan(parts: Parts, span: slice, state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    q, k, v, keep, erase, write = (part[:, span] for part in parts)
    return delta_scan(q, k, v, keep, erase, write, state, None if mask is None else mask[:, span])


def _written(beta: Tensor, context: CallContext) -> Tensor:
    written = torch.ones(beta.shape[:2], dtype=torch.bool, device=beta.device)
    for mask in (context.token_mask, context.write_mask):
        if mask is not None:
            written = written & mask
    return written
