"""The scan on a CPU: one pass over the tokens in compiled code, with a backward written by hand.

The state stays in a small buffer; nothing of size T x R x R is ever stored. For the backward the
state is kept every 64 tokens and recomputed in between. The Global Interpreter Lock is released
while a kernel runs, and kernels hold no state of their own, so threads may call at will.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltamem_agents.core.kernels_cpu import EVERY, backward_loop, forward_loop

_NO_MASK = np.ones((1, 1), dtype=np.bool_)


def scan_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`core.scan.delta_scan` by the Numba kernel; shapes and meaning as there.

    Returns:
        reads [B, T, H, R] and the state [B, H, R, R].
    """
    inputs = (q, k, v, keep, erase, write, state)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        reads, after = _CpuScan.apply(*inputs, mask)  # type: ignore[no-untyped-call]
        return reads, after
    reads, after, _ = _forward(inputs, mask, checkpoints=False)
    return reads, after


def _forward(
    tensors: tuple[Tensor, ...], mask: Tensor | None, *, checkpoints: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, heads, rank = tensors[0].shape
    reads = torch.empty(batch, tokens, heads, rank, dtype=torch.float32)
    after = torch.empty(batch, heads, rank, rank, dtype=torch.float32)
    spans = -(-tokens // EVERY) if checkpoints else 0
    kept = torch.empty(batch, heads, spans, rank, rank, dtype=torch.float32)
    *inputs, before = _arrays(tensors)
    flags = _NO_MASK if mask is None else mask.numpy()
    outputs = (reads.numpy(), after.numpy(), kept.numpy())
    forward_loop(rank)(tuple(inputs), before, flags, mask is not None, *outputs)
    return reads, after, kept


def _arrays(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    """As numpy, without a copy unless a last axis is not contiguous (an expanded gate, say)."""
    return tuple((x if x.stride(-1) == 1 else x.contiguous()).detach().numpy() for x in tensors)


class _CpuScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, mask = arguments
        reads, after, kept = _forward(tuple(tensors), mask, checkpoints=True)
        ctx.save_for_backward(*tensors[:-1], kept, mask)
        return reads, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_reads: Tensor, of_after: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, kept, mask = ctx.saved_tensors
        results = [torch.empty(tensors[0].shape, dtype=torch.float32) for _ in tensors]
        of_state = torch.empty(of_after.shape, dtype=torch.float32)
        backward_loop(tensors[0].shape[-1])(
            _arrays(tensors),
            kept.numpy(),
            _NO_MASK if mask is None else mask.numpy(),
            mask is not None,
            *_arrays((of_reads, of_after)),
            tuple(x.numpy() for x in results),
            of_state.numpy(),
        )
        return (*results, of_state, None)
