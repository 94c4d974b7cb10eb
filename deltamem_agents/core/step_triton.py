"""`memory_step` on CUDA: one kernel, one program a session and state head."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from deltamem_agents.core.step import StepRule


def step_triton(
    projected: Tensor, state: Tensor, rule: StepRule, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`core.step.memory_step` by the Triton kernel; arguments and result as there."""
    batch, heads, rank = projected.shape[0], rule.heads, rule.rank
    projected, state = projected.contiguous(), state.contiguous()
    reads = projected.new_empty(batch, heads, rank)
    after = torch.empty_like(state)
    _step[(batch, heads)](
        projected, state, reads, after, rule.width, scale,
        H=heads, R=rank, W=triton.next_power_of_2(rank), G=rule.gates,
        COUPLED=rule.coupled, NORMALIZE=rule.normalize,
        OUTSIDE=rule.update == "lambda_outside", KEEP_ALL=rule.update == "no_lambda",
        num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return reads, after


@triton.jit
def _direction(x):
    """Equation 4: tanh, then length 1. Near 0 a series, where 2 sigmoid(2 x) - 1 would round."""
    y = x * x
    series = 1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835))))
    tanh = tl.where(tl.abs(x) < 0.25, x * series, 2 * tl.sigmoid(2 * x) - 1)
    return tanh / tl.maximum(tl.sqrt(tl.sum(tanh * tanh, 0)), 1e-6)


@triton.jit
def _step(
    projected, before, reads, after, width, scale,
    H: tl.constexpr, R: tl.constexpr, W: tl.constexpr, G: tl.constexpr,
    COUPLED: tl.constexpr, NORMALIZE: tl.constexpr, OUTSIDE: tl.constexpr, KEEP_ALL: tl.constexpr,
):  # fmt: skip
    """Letters: H heads, R rank, W the next power of two, G gates."""
    session, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, W)
    inside = lane < R
    row = projected + session * width
    query = tl.load(row + head * R + lane, mask=inside, other=0.0)
    key = tl.load(row + (H + head) * R + lane, mask=inside, other=0.0)
    value = tl.load(row + (2 * H + head) * R + lane, mask=inside, other=0.0)
    if NORMALIZE:
        query, key = _direction(query), _direction(key)
    gate = (head * R + lane) if G == H * R else (head + lane * 0)
    write = tl.sigmoid(tl.load(row + 3 * H * R + gate, mask=inside, other=0.0))
    if KEEP_ALL:
        keep = write * 0 + 1
    elif COUPLED:
        keep = 1 - write
    else:
        keep = tl.sigmoid(tl.load(row + 3 * H * R + G + gate, mask=inside, other=0.0))
    erase = keep * write if OUTSIDE else write
    place = (session * H + head) * R * R + lane[:, None] * R + lane[None, :]
    square = inside[:, None] & inside[None, :]
    state = tl.load(before + place, mask=square, other=0.0)
    answer = tl.sum(state * query[None, :], 1)
    tl.store(reads + (session * H + head) * R + lane, scale * answer, mask=inside)
    change = write * value - erase * tl.sum(state * key[None, :], 1)
    tl.store(after + place, keep[:, None] * state + change[:, None] * key[None, :], mask=square)
