"""`memory_step` on a CPU: one compiled function, called with raw addresses.

The arithmetic takes a tenth of a microsecond; what counts is the way there. So the function is
called through ctypes (no array objects), and it keeps the Global Interpreter Lock, because
getting that back could take longer than the step.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numba
import torch
from numba import carray, float32, int64, types
from numba.extending import register_jitable
from torch import Tensor

if TYPE_CHECKING:
    from deltamem_agents.core.step import StepRule

_Native = Callable[..., None]

_SMALLEST_NORM = 1e-6
_NORMALIZE, _ONE_A_ROW, _COUPLED, _KEEP_ALL, _LAMBDA_OUTSIDE = 1, 2, 4, 8, 16
_LOCK = Lock()


def step_cpu(
    projected: Tensor, state: Tensor, rule: StepRule, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`core.step.memory_step` by the compiled function; arguments and result as there."""
    batch, heads, rank = projected.shape[0], rule.heads, rule.rank
    projected, state = projected.contiguous(), state.contiguous()
    reads = torch.empty(batch, heads, rank)
    after = torch.empty(batch, heads, rank, rank)
    scratch = torch.empty(2 * rank)
    _native()(
        projected.data_ptr(), state.data_ptr(), reads.data_ptr(), after.data_ptr(),
        scratch.data_ptr(), batch, heads, rank, _options(rule), scale,
    )  # fmt: skip
    return reads, after


@cache
def _options(rule: StepRule) -> int:
    flags = (
        (_NORMALIZE, rule.normalize),
        (_ONE_A_ROW, rule.gates == rule.heads * rule.rank),
        (_COUPLED, rule.coupled),
        (_KEEP_ALL, rule.update == "no_lambda"),
        (_LAMBDA_OUTSIDE, rule.update == "lambda_outside"),
    )
    return sum(bit for bit, on in flags if on)


def _native() -> _Native:
    with _LOCK:
        return _compiled()


@cache
def _compiled() -> _Native:
    floats = types.CPointer(float32)
    signature = types.void(*[floats] * 5, *[int64] * 4, float32)
    options: dict[str, Any] = {"nopython": True, "error_model": "numpy"}
    try:
        function = numba.cfunc(signature, cache=True, **options)(_step)
    except RuntimeError:  # there is no folder that Numba could keep it in
        function = numba.cfunc(signature, **options)(_step)
    kinds = (*[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 4, ctypes.c_float)
    native = ctypes.PYFUNCTYPE(None, *kinds)(function.address)
    native.keeps = function  # type: ignore[attr-defined]  # the code lives as long as this does
    return native


@register_jitable  # type: ignore[untyped-decorator]
def _sigmoid(x: Any) -> Any:
    return float32(1.0) / (float32(1.0) + math.exp(-x))


@register_jitable  # type: ignore[untyped-decorator]
def _direction(target: Any, source: Any, options: Any) -> None:
    """Equation 4: tanh, then length 1."""
    for j in range(target.shape[0]):
        target[j] = source[j]
    if options & _NORMALIZE:
        squares = float32(0.0)
        for j in range(target.shape[0]):
            target[j] = math.tanh(target[j])
            squares += target[j] * target[j]
        length = max(float32(math.sqrt(squares)), float32(_SMALLEST_NORM))
        for j in range(target.shape[0]):
            target[j] /= length


@register_jitable  # type: ignore[untyped-decorator]
def _gates(row: Any, place: Any, count: Any, options: Any) -> Any:
    """Equation 5: keep, erase and write from the gate at `place` of a row with `count` gates."""
    write = _sigmoid(row[place])
    keep = float32(1.0)
    if not options & _KEEP_ALL:
        keep = keep - write if options & _COUPLED else _sigmoid(row[place + count])
    return keep, keep * write if options & _LAMBDA_OUTSIDE else write, write


def _step(
    projected_at: Any, before_at: Any, reads_at: Any, after_at: Any, scratch_at: Any,
    batch: int, heads: int, rank: int, options: int, scale: float,
) -> None:  # fmt: skip
    width = heads * rank
    count = width if options & _ONE_A_ROW else heads
    columns = 3 * width + (count if options & _COUPLED else 2 * count)
    projected = carray(projected_at, (batch, columns))
    before = carray(before_at, (batch, heads, rank, rank))
    reads = carray(reads_at, (batch, heads, rank))
    after = carray(after_at, (batch, heads, rank, rank))
    scratch = carray(scratch_at, (2, rank))
    query, key = scratch[0], scratch[1]
    for b in range(batch):
        row = projected[b]
        for h in range(heads):
            first = h * rank
            _direction(query, row[first : first + rank], options)
            _direction(key, row[width + first : width + first + rank], options)
            for i in range(rank):
                place = 3 * width + (first + i if options & _ONE_A_ROW else h)
                keep, erase, write = _gates(row, place, count, options)
                answer = known = float32(0.0)
                for j in range(rank):
                    answer += before[b, h, i, j] * query[j]
                    known += before[b, h, i, j] * key[j]
                reads[b, h, i] = scale * answer
                change = write * row[2 * width + first + i] - erase * known
                for j in range(rank):
                    after[b, h, i, j] = keep * before[b, h, i, j] + change * key[j]
