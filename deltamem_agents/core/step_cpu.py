"""`memory_step` on a CPU: gates, read and write of each token in one compiled loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import boolean, float32, int64, types
from numba.extending import register_jitable
from torch import Tensor

from deltamem_agents.core.kernels_cpu import IN, MASK, OUT, compile_loop, turn
from deltamem_agents.core.lanes import fill, get, put, scale_and_add, times

if TYPE_CHECKING:
    from deltamem_agents.core.step import StepRule

_LOCK = Lock()
_ALL = np.ones((1, 1), dtype=np.bool_)
_UPDATES = {"standard": 0, "lambda_outside": 1, "no_lambda": 2}


def step_cpu(
    projected: Tensor,
    bias: Tensor,
    state: Tensor,
    rule: StepRule,
    mask: Tensor | None = None,
    writes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`core.step.memory_step` by the Numba kernel; arguments and result as there."""
    batch, tokens, _ = projected.shape
    reads = torch.empty(batch, tokens, rule.heads, rule.rank)
    after = torch.empty(batch, rule.heads, rule.rank, rule.rank)
    _loop(rule.rank)(
        projected.detach().numpy(),
        bias.detach().numpy(),
        state.detach().numpy(),
        _ALL if mask is None else mask.numpy(),
        mask is not None,
        _ALL if writes is None else writes.numpy(),
        writes is not None,
        (rule.gates, _UPDATES[rule.update], int(rule.coupled), int(rule.normalize)),
        reads.numpy(),
        after.numpy(),
    )
    return reads, after


def _loop(rank: int) -> Callable[..., None]:
    with _LOCK:
        return _compiled(rank)


@cache
def _compiled(rank: int) -> Callable[..., None]:
    row = types.Array(float32, 3, "A", readonly=True)
    gates = types.Array(float32, 1, "A", readonly=True)
    rule = types.UniTuple(int64, 4)
    return compile_loop(_step(rank), (row, gates, IN, MASK, boolean, MASK, boolean, rule, OUT, OUT))


@register_jitable  # type: ignore[untyped-decorator]
def _sigmoid(x: Any) -> Any:
    return np.float32(1.0) / (np.float32(1.0) + math.exp(-x))


@register_jitable  # type: ignore[untyped-decorator]
def _direction(target: Any, source: Any, normalized: Any) -> None:
    """Equation 4: tanh, then length 1."""
    squares = np.float32(0.0)
    for i in range(target.shape[0]):
        target[i] = math.tanh(source[i]) if normalized else source[i]
        squares += target[i] * target[i]
    if normalized:
        length = max(np.float32(math.sqrt(squares)), np.float32(1e-6))
        for i in range(target.shape[0]):
            target[i] /= length


@register_jitable  # type: ignore[untyped-decorator]
def _gates(parts: Any, row: Any, bias: Any, first: Any, one: Any, rule: Any) -> None:
    """Equation 5 for one head: keep, erase and write into parts[3:6].

    `first` is the place of the head's first gate among the gates, `one` whether it has only that.
    """
    count, update, coupled, _ = rule
    begin = row.shape[0] - bias.shape[0]
    for i in range(parts.shape[1]):
        place = first if one else first + i
        beta = _sigmoid(row[begin + place] + bias[place])
        if update == 2:
            keep = np.float32(1.0)
        elif coupled:
            keep = np.float32(1.0) - beta
        else:
            keep = _sigmoid(row[begin + count + place] + bias[count + place])
        parts[3, i] = keep
        parts[4, i] = keep * beta if update == 1 else beta
        parts[5, i] = beta


def _step(rank: int) -> Callable[..., None]:
    """The loop for one rank; arguments as `step_cpu` passes them."""

    def step(
        projected: Any,
        bias: Any,
        before: Any,
        mask: Any,
        masked: Any,
        writes: Any,
        partly: Any,
        rule: Any,
        reads: Any,
        after: Any,
    ) -> None:
        batch, tokens, heads, _ = reads.shape
        zero = fill(0.0, rank)
        state = np.empty((1, rank, rank), np.float32)
        parts = np.empty((6, rank), np.float32)
        one = rule[0] == heads
        for b in range(batch):
            for h in range(heads):
                turn(state[0], before[b, h])
                for t in range(tokens):
                    if masked and not mask[b, t]:
                        put(reads, (b, t, h), zero)
                        continue
                    row = projected[b, t]
                    for part in range(3):
                        begin = (part * heads + h) * rank
                        values = row[begin : begin + rank]
                        _direction(parts[part], values, rule[3] and part < 2)
                    put(reads, (b, t, h), times(state, (0,), get(parts, (0,), zero)))
                    if partly and not writes[b, t]:
                        continue
                    _gates(parts, row, bias, h if one else h * rank, one, rule)
                    key = get(parts, (1,), zero)
                    gone = get(parts, (4,), zero) * times(state, (0,), key)
                    change = get(parts, (5,), zero) * get(parts, (2,), zero) - gone
                    scale_and_add(state, (0,), state, (0,), get(parts, (3,), zero), change, key)
                turn(after[b, h], state[0])

    return step
