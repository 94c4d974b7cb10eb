"""The scan on CUDA: `kernels_triton` behind torch's autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from deltamem_agents.core import kernels_triton as kernels

SEGMENT = 64  # tokens; balances the steps inside segments against those between them
OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}
_LARGEST_MAP = 16  # above this rank the maps of segments cost more than they save


@dataclass(frozen=True)
class _Sizes:
    """Letters as in `kernels_triton`."""

    B: int
    T: int
    H: int
    R: int
    W: int
    S: int
    L: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.B * self.H, self.S

    def common(self, masked: bool) -> dict[str, Any]:
        """Arguments that most kernels share."""
        sizes = {"T": self.T, "H": self.H, "S": self.S, "R": self.R, "W": self.W, "L": self.L}
        return sizes | {"MASKED": masked} | OPTIONS


def scan_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`core.scan.delta_scan` by the Triton kernels; shapes and meaning as there.

    Returns:
        reads [B, T, H, R] and the state [B, H, R, R].
    """
    if q.numel() == 0:
        return torch.zeros_like(q), state.clone()
    reads, after = _TritonScan.apply(q, k, v, keep, erase, write, state, mask)  # type: ignore[no-untyped-call]
    return reads, after


def _sizes(q: Tensor) -> _Sizes:
    batch, tokens, heads, rank = q.shape
    length = SEGMENT if tokens > SEGMENT and rank <= _LARGEST_MAP else tokens
    width = triton.next_power_of_2(rank)
    return _Sizes(batch, tokens, heads, rank, width, triton.cdiv(tokens, length), length)


class _TritonScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, state, mask = arguments
        inputs = [x.contiguous() for x in tensors]
        flags = inputs[0] if mask is None else mask.to(torch.uint8).contiguous()
        sizes, masked = _sizes(inputs[0]), mask is not None
        starts = _starts(inputs, flags, masked, sizes, _widen(state, sizes), None)
        reads = torch.empty_like(inputs[0])
        after = starts.new_empty(sizes.B, sizes.H, sizes.W, sizes.W)
        kernels.run_segments[sizes.grid](
            *inputs, flags, starts, reads, after, **sizes.common(masked)
        )
        ctx.save_for_backward(*inputs, flags, starts)
        ctx.sizes, ctx.masked = sizes, masked
        return reads, _narrow(after, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_reads: Tensor, of_after: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, flags, starts = ctx.saved_tensors
        sizes, masked, of_reads = ctx.sizes, ctx.masked, of_reads.contiguous()
        ends = _starts(inputs, flags, masked, sizes, _widen(of_after, sizes), of_reads)
        past = starts.new_empty(*sizes.grid, sizes.L, sizes.W, sizes.W)
        common = sizes.common(masked)
        kernels.recompute[sizes.grid](*inputs[1:], flags, starts, past, **common)
        results = [torch.empty_like(x) for x in inputs]
        of_state = starts.new_empty(sizes.B, sizes.H, sizes.W, sizes.W)
        kernels.undo_segments[sizes.grid](
            *inputs, flags, past, ends, of_reads, *results, of_state, **common
        )
        return (*results, _narrow(of_state, sizes), None)


def _starts(
    inputs: list[Tensor],
    flags: Tensor,
    masked: bool,
    sizes: _Sizes,
    first: Tensor,
    of_reads: Tensor | None,
) -> Tensor:
    """Phases 1 and 2: what each segment starts from, [B H, S, W, W].

    With `of_reads`, of the gradient: then `first` belongs to the end of the sequence.
    """
    if sizes.S == 1:
        return first
    back, slots = of_reads is not None, 2 * sizes.W
    maps = first.new_empty(*sizes.grid, sizes.W, slots, sizes.W)
    starts = first.new_empty(*sizes.grid, sizes.W, sizes.W)
    kernels.find_maps[sizes.grid](
        *inputs,
        flags,
        inputs[0] if of_reads is None else of_reads,
        maps,
        P=slots,
        BACK=back,
        **sizes.common(masked),
    )
    kernels.chain_maps[(sizes.grid[0],)](
        first, maps, starts, sizes.S, W=sizes.W, P=slots, BACK=back, **OPTIONS
    )
    return starts


def _widen(state: Tensor, sizes: _Sizes) -> Tensor:
    """[B, H, R, R] to contiguous [B, H, W, W], filled up with zeros."""
    more = sizes.W - sizes.R
    return pad(state, (0, more, 0, more)).contiguous()


def _narrow(state: Tensor, sizes: _Sizes) -> Tensor:
    """What `_widen` was given, contiguous and without spare storage."""
    return state[..., : sizes.R, : sizes.R].contiguous()
