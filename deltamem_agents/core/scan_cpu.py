"""The scan on a CPU: one pass over the tokens in compiled code, with a backward written by hand.

The state stays in a small buffer; nothing of size T x R x R is ever stored. For the backward the
state is kept every 64 tokens and recomputed in between. The Global Interpreter Lock is released
while a kernel runs, and kernels hold no state of their own, so threads may call at will.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltamem_agents.core.kernels_cpu import EVERY, kernels

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
    reads, after, _ = _forward([x.detach().numpy() for x in inputs], mask, checkpoints=False)
    return reads, after


def _forward(
    arrays: list[Any], mask: Tensor | None, *, checkpoints: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, heads, rank = arrays[0].shape
    reads = torch.empty(batch, tokens, heads, rank)
    after = torch.empty(batch, heads, rank, rank)
    kept = torch.empty(batch, heads, -(-tokens // EVERY) if checkpoints else 0, rank, rank)
    kernels().forward(
        *arrays, _mask(mask), mask is not None, reads.numpy(), after.numpy(), kept.numpy()
    )
    return reads, after, kept


def _mask(mask: Tensor | None) -> Any:
    return _NO_MASK if mask is None else mask.numpy()


class _CpuScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, mask = inputs
        reads, after, kept = _forward([x.detach().numpy() for x in tensors], mask, checkpoints=True)
        ctx.save_for_backward(*tensors[:-1], kept, mask)
        return reads, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_reads: Tensor, of_after: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, kept, mask = ctx.saved_tensors
        gradients = [torch.empty(tensors[0].shape) for _ in tensors]
        of_state = torch.empty(of_after.shape)
        kernels().backward(
            *(x.detach().numpy() for x in tensors),
            kept.numpy(),
            _mask(mask),
            mask is not None,
            of_reads.numpy(),
            of_after.numpy(),
            *(x.numpy() for x in gradients),
            of_state.numpy(),
        )
        return (*gradients, of_state, None)
