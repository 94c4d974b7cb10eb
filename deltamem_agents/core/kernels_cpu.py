"""The compiled loops of `scan_cpu`: plain Python that Numba turns into machine code.

They are compiled at the first call, once a machine (Numba caches them beside this file, or in
the user's cache folder where that cannot be written), for arrays of any strides, so that one
compilation serves every caller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

EVERY = 64  # tokens between two kept states

# Reordering and fused multiply-add are allowed; NaN and infinity must go through untouched.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_LOCK = Lock()


class Kernels(NamedTuple):
    """The two compiled loops; arguments as in `_forward` and `_backward` below."""

    forward: Callable[..., None]
    backward: Callable[..., None]


def kernels() -> Kernels:
    """The compiled loops; the first call compiles them, other threads wait for it."""
    with _LOCK:
        return _compiled()


@cache
def _compiled() -> Kernels:
    from numba import boolean, float32, types

    inputs = types.Array(float32, 4, "A", readonly=True)
    flags = types.Array(boolean, 2, "A", readonly=True)
    kept = float32[:, :, :, :, ::1]
    result = float32[:, :, :, ::1]
    forward = (*[inputs] * 7, flags, boolean, result, result, kept)
    backward = (*[inputs] * 6, kept, flags, boolean, inputs, inputs, *[result] * 7)
    return Kernels(_compile(_forward, forward), _compile(_backward, backward))


def _compile(loop: Callable[..., None], arguments: tuple[Any, ...]) -> Callable[..., None]:
    import numba

    options = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    signature = numba.void(*arguments)
    try:
        compiled = numba.njit(signature, cache=True, **options)(loop)
    except RuntimeError:  # no folder that the cache could live in
        compiled = numba.njit(signature, **options)(loop)
    return compiled  # type: ignore[no-any-return]


def _forward(
    q: Any,
    k: Any,
    v: Any,
    keep: Any,
    erase: Any,
    write: Any,
    before: Any,
    mask: Any,
    masked: bool,
    reads: Any,
    after: Any,
    kept: Any,
) -> None:
    """All [B, T, H, R] but before, after [B, H, R, R], mask [B, T], kept [B, H, T / 64, R, R]."""
    batch, tokens, heads, rank = q.shape
    state = np.empty((rank, rank), np.float32)
    for b in range(batch):
        for h in range(heads):
            state[:] = before[b, h]
            for t in range(tokens):
                if t % 64 == 0 and kept.shape[2] > 0:
                    kept[b, h, t // 64] = state
                if masked and not mask[b, t]:
                    for i in range(rank):
                        reads[b, t, h, i] = 0.0
                    continue
                for i in range(rank):
                    answer = np.float32(0.0)
                    known = np.float32(0.0)
                    for j in range(rank):
                        answer += state[i, j] * q[b, t, h, j]
                        known += state[i, j] * k[b, t, h, j]
                    reads[b, t, h, i] = answer
                    change = write[b, t, h, i] * v[b, t, h, i] - erase[b, t, h, i] * known
                    stay = keep[b, t, h, i]
                    for j in range(rank):
                        state[i, j] = stay * state[i, j] + change * k[b, t, h, j]
            after[b, h] = state


def _backward(  # noqa: PLR0912
    q: Any,
    k: Any,
    v: Any,
    keep: Any,
    erase: Any,
    write: Any,
    kept: Any,
    mask: Any,
    masked: bool,
    of_reads: Any,
    of_after: Any,
    of_q: Any,
    of_k: Any,
    of_v: Any,
    of_keep: Any,
    of_erase: Any,
    of_write: Any,
    of_state: Any,
) -> None:
    """Shapes as in `_forward`; every `of_x` has the shape of x."""
    batch, tokens, heads, rank = q.shape
    past = np.empty((64, rank, rank), np.float32)
    grad = np.empty((rank, rank), np.float32)
    for b in range(batch):
        for h in range(heads):
            grad[:] = of_after[b, h]
            for chunk in range(kept.shape[2] - 1, -1, -1):
                start = chunk * 64
                stop = min(tokens, start + 64)
                past[0] = kept[b, h, chunk]
                for t in range(start, stop - 1):
                    x = t - start
                    if masked and not mask[b, t]:
                        past[x + 1] = past[x]
                        continue
                    for i in range(rank):
                        known = np.float32(0.0)
                        for j in range(rank):
                            known += past[x, i, j] * k[b, t, h, j]
                        change = write[b, t, h, i] * v[b, t, h, i] - erase[b, t, h, i] * known
                        stay = keep[b, t, h, i]
                        for j in range(rank):
                            past[x + 1, i, j] = stay * past[x, i, j] + change * k[b, t, h, j]
                for t in range(stop - 1, start - 1, -1):
                    x = t - start
                    for j in range(rank):
                        of_q[b, t, h, j] = 0.0
                        of_k[b, t, h, j] = 0.0
                    if masked and not mask[b, t]:
                        for i in range(rank):
                            of_v[b, t, h, i] = 0.0
                            of_keep[b, t, h, i] = 0.0
                            of_erase[b, t, h, i] = 0.0
                            of_write[b, t, h, i] = 0.0
                        continue
                    for i in range(rank):
                        known = np.float32(0.0)
                        of_change = np.float32(0.0)
                        of_stay = np.float32(0.0)
                        for j in range(rank):
                            known += past[x, i, j] * k[b, t, h, j]
                            of_change += grad[i, j] * k[b, t, h, j]
                            of_stay += grad[i, j] * past[x, i, j]
                        change = write[b, t, h, i] * v[b, t, h, i] - erase[b, t, h, i] * known
                        of_known = erase[b, t, h, i] * of_change
                        of_v[b, t, h, i] = write[b, t, h, i] * of_change
                        of_write[b, t, h, i] = v[b, t, h, i] * of_change
                        of_erase[b, t, h, i] = -known * of_change
                        of_keep[b, t, h, i] = of_stay
                        stay = keep[b, t, h, i]
                        asked = of_reads[b, t, h, i]
                        for j in range(rank):
                            of_k[b, t, h, j] += change * grad[i, j] - of_known * past[x, i, j]
                            of_q[b, t, h, j] += asked * past[x, i, j]
                            grad[i, j] = (
                                stay * grad[i, j] - of_known * k[b, t, h, j] + asked * q[b, t, h, j]
                            )
            of_state[b, h] = grad
