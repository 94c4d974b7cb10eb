"""The compiled loops of `scan_cpu`: Python that Numba turns into machine code.

They read like `core.rule`, in vectors of R numbers (`core.lanes`). Each is compiled once for a
rank, at its first call, and kept on disk by Numba: beside this file, or in the user's cache folder
where that cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

import numba
import numpy as np
from numba import boolean, float32, types
from numba.extending import register_jitable

from deltamem_agents.core.lanes import (
    fill,
    get,
    put,
    row_products,
    scale_and_add,
    times,
    transposed_times,
)

EVERY = 64  # tokens between two states kept for the backward

_Loop = Callable[..., None]

# Reordering and fused multiply-add are allowed; NaN and infinity must go through untouched.
_OPTIONS = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
_LOCK = Lock()

# Arrays of any strides, so that one compilation serves every caller.
IN = types.Array(float32, 4, "A", readonly=True)
MASK = types.Array(boolean, 2, "A", readonly=True)
OUT = float32[:, :, :, ::1]
_KEPT = float32[:, :, :, :, ::1]


def forward_loop(rank: int) -> _Loop:
    """The compiled `_forward` of this rank; other threads wait while it is compiled."""
    with _LOCK:
        return _compiled_forward(rank)


def backward_loop(rank: int) -> _Loop:
    """The compiled `_backward` of this rank; other threads wait while it is compiled."""
    with _LOCK:
        return _compiled_backward(rank)


@cache
def _compiled_forward(rank: int) -> _Loop:
    inputs = types.UniTuple(IN, 6)
    return compile_loop(_forward(rank), (inputs, IN, MASK, boolean, OUT, OUT, _KEPT))


@cache
def _compiled_backward(rank: int) -> _Loop:
    inputs, gradients = types.UniTuple(IN, 6), types.UniTuple(OUT, 6)
    return compile_loop(_backward(rank), (inputs, _KEPT, MASK, boolean, IN, IN, gradients, OUT))


def compile_loop(loop: _Loop, arguments: tuple[Any, ...]) -> _Loop:
    signature = numba.void(*arguments)
    try:
        compiled = numba.njit(signature, cache=True, **_OPTIONS)(loop)
    except RuntimeError:  # there is no folder that Numba could keep it in
        compiled = numba.njit(signature, **_OPTIONS)(loop)
    return compiled  # type: ignore[no-any-return]


@register_jitable  # type: ignore[untyped-decorator]
def turn(target: Any, source: Any) -> None:
    """Rows to columns, or back."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[j, i] = source[i, j]


@register_jitable  # type: ignore[untyped-decorator]
def _copy(target: Any, source: Any) -> None:
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@register_jitable  # type: ignore[untyped-decorator]
def _write(inputs: Any, at: Any, new: Any, new_at: Any, old: Any, old_at: Any, zero: Any) -> None:
    """The write of one token (equation 12): from the matrix at old_at to the one at new_at."""
    _, k, v, keep, erase, write = inputs
    key = get(k, at, zero)
    known = times(old, old_at, key)
    change = get(write, at, zero) * get(v, at, zero) - get(erase, at, zero) * known
    scale_and_add(new, new_at, old, old_at, get(keep, at, zero), change, key)


def _forward(rank: int) -> _Loop:
    """The loop for one rank.

    Its arguments: inputs (q, k, v, keep, erase, write) [B, T, H, R] and before [B, H, R, R] are
    read; reads, after and kept [B, H, T / 64 or 0, R, R] are written; mask [B, T] counts where
    `masked` says so.
    """

    def forward(
        inputs: Any, before: Any, mask: Any, masked: Any, reads: Any, after: Any, kept: Any
    ) -> None:
        batch, tokens, heads, _ = inputs[0].shape
        zero = fill(0.0, rank)
        state = np.empty((heads, rank, rank), np.float32)
        for b in range(batch):
            for h in range(heads):
                turn(state[h], before[b, h])
            for t in range(tokens):
                keeps = kept.shape[2] > 0 and t % EVERY == 0
                silent = masked and not mask[b, t]
                for h in range(heads):  # innermost: the heads of a token lie side by side
                    at = (b, t, h)
                    if keeps:
                        _copy(kept[b, h, t // EVERY], state[h])
                    if silent:
                        put(reads, at, zero)
                        continue
                    put(reads, at, times(state, (h,), get(inputs[0], at, zero)))
                    _write(inputs, at, state, (h,), state, (h,), zero)
            for h in range(heads):
                turn(after[b, h], state[h])

    return forward


@register_jitable  # type: ignore[untyped-decorator]
def _replay(
    inputs: Any, b: Any, start: Any, count: Any, mask: Any, masked: Any, past: Any, zero: Any
) -> None:
    """From the states at token `start`, past[0 : heads], those at the `count` - 1 tokens after."""
    heads = inputs[0].shape[2]
    for x in range(count - 1):
        silent = masked and not mask[b, start + x]
        for h in range(heads):
            here = x * heads + h
            if silent:
                _copy(past[here + heads], past[here])
            else:
                at = (b, start + x, h)
                _write(inputs, at, past, (here + heads,), past, (here,), zero)


@register_jitable  # type: ignore[untyped-decorator]
def _undo(
    inputs: Any, at: Any, past: Any, x: Any, grad: Any, h: Any, asked: Any, results: Any, zero: Any
) -> None:
    """Gradients of one token's read and write; README.md derives them.

    `past[x]` is the state before the token. `grad[h]` is the gradient of the state after the token
    when it comes in, and of the state before it when it goes out; `asked` is the gradient of the
    token's read.
    """
    q, k, v, keep, erase, write = inputs
    key, value, erased, written = (
        get(k, at, zero),
        get(v, at, zero),
        get(erase, at, zero),
        get(write, at, zero),
    )
    known = times(past, (x,), key)
    change = written * value - erased * known
    of_change = times(grad, (h,), key)
    of_known = zero - erased * of_change
    of_key = transposed_times(grad, (h,), change) + transposed_times(past, (x,), of_known)
    put(results[0], at, transposed_times(past, (x,), asked))
    put(results[1], at, of_key)
    put(results[2], at, written * of_change)
    put(results[3], at, row_products(past, (x,), grad, (h,), zero))
    put(results[4], at, zero - known * of_change)
    put(results[5], at, value * of_change)
    scale_and_add(grad, (h,), grad, (h,), get(keep, at, zero), of_known, key)
    scale_and_add(grad, (h,), grad, (h,), fill(1.0, zero), asked, get(q, at, zero))


def _backward(rank: int) -> _Loop:
    """The loop for one rank: recompute 64 states from the one kept, then go through them back.

    Arguments as in `_forward`; of_reads and of_after come in, results (gradients of inputs) and
    of_state go out.
    """

    def backward(
        inputs: Any,
        kept: Any,
        mask: Any,
        masked: Any,
        of_reads: Any,
        of_after: Any,
        results: Any,
        of_state: Any,
    ) -> None:
        batch, tokens, heads, _ = inputs[0].shape
        zero = fill(0.0, rank)
        past = np.empty((EVERY * heads, rank, rank), np.float32)
        grad = np.empty((heads, rank, rank), np.float32)
        for b in range(batch):
            for h in range(heads):
                turn(grad[h], of_after[b, h])
            for chunk in range(kept.shape[2] - 1, -1, -1):
                start = chunk * EVERY
                count = min(tokens - start, EVERY)
                for h in range(heads):
                    _copy(past[h], kept[b, h, chunk])
                _replay(inputs, b, start, count, mask, masked, past, zero)
                for x in range(count - 1, -1, -1):
                    silent = masked and not mask[b, start + x]
                    for h in range(heads):
                        at = (b, start + x, h)
                        if silent:
                            for result in results:
                                put(result, at, zero)
                        else:
                            asked = get(of_reads, at, zero)
                            _undo(inputs, at, past, x * heads + h, grad, h, asked, results, zero)
            for h in range(heads):
                turn(of_state[b, h], grad[h])

    return backward
