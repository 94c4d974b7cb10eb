"""The compiled function behind `step`: Python that Numba turns into machine code."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numba
from numba import carray, types

NORM_EPS = 1e-6

_FLOATS = types.CPointer(types.float32)
_SIGNATURE = types.void(_FLOATS, _FLOATS, _FLOATS, _FLOATS, *[types.int64] * 4, types.float32)
_ARGUMENTS = (*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 4, ctypes.c_float)


def compile_step() -> Any:
    """The step as a ctypes function; see `step.native_step`."""
    function = numba.cfunc(_SIGNATURE, cache=True, nopython=True, error_model="numpy")(_step)
    native = ctypes.CFUNCTYPE(None, *_ARGUMENTS)(function.address)
    native.keeps = function  # type: ignore[attr-defined]  # the code lives as long as this does
    return native


def _step(
    y_at: Any, before_at: Any, reads_at: Any, after_at: Any,
    batch: int, heads: int, rank: int, options: int, scale: float,
) -> None:  # fmt: skip
    normalize, rankwise, coupled = options & 1, options & 2, options & 4
    keep_all, outside = options & 8, options & 16
    width = heads * rank
    gates = width if rankwise else heads
    row = 3 * width + (gates if coupled else 2 * gates)
    y = carray(y_at, (batch, row))
    before = carray(before_at, (batch, heads, rank, rank))
    reads = carray(reads_at, (batch, heads, rank))
    after = carray(after_at, (batch, heads, rank, rank))
    for b in range(batch):
        for h in range(heads):
            q = y[b, h * rank : (h + 1) * rank]
            k = y[b, width + h * rank : width + (h + 1) * rank]
            if normalize:
                q_norm = k_norm = types.float32(0.0)
                for j in range(rank):
                    q[j], k[j] = math.tanh(q[j]), math.tanh(k[j])
                    q_norm += q[j] * q[j]
                    k_norm += k[j] * k[j]
                q_norm = max(math.sqrt(q_norm), types.float32(NORM_EPS))
                k_norm = max(math.sqrt(k_norm), types.float32(NORM_EPS))
                for j in range(rank):
                    q[j] /= q_norm
                    k[j] /= k_norm
            for i in range(rank):
                gate = 3 * width + (h * rank + i if rankwise else h)
                beta = 1 / (1 + math.exp(-y[b, gate]))
                keep = types.float32(1.0)
                if not keep_all:
                    keep = 1 - beta if coupled else 1 / (1 + math.exp(-y[b, gate + gates]))
                read = predicted = types.float32(0.0)
                for j in range(rank):
                    read += before[b, h, i, j] * q[j]
                    predicted += before[b, h, i, j] * k[j]
                reads[b, h, i] = scale * read
                erase = keep * beta if outside else beta
                change = beta * y[b, 2 * width + h * rank + i] - erase * predicted
                for j in range(rank):
                    after[b, h, i, j] = keep * before[b, h, i, j] + change * k[j]
