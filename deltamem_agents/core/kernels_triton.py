"""The scan's CUDA kernels: three phases instead of one step a token.

The delta rule is affine in the state, row by row. So each segment of L tokens has a map (R x R,
and an offset) that can be found without knowing the state it starts from:

1. `find_maps`: the maps of all segments side by side, token by token within a segment;
2. `chain_maps`: the state at each segment's start, segment by segment;
3. `run_segments`: all segments side by side again, now from their true states, with the reads.

That is 2 L + T / L steps one after another instead of T. The backward is the same on the gradient
of the state, from the end to the start. Sums over R are plain sums: no logarithms, no tensor cores
(they would round), no atomics (results do not vary from run to run).

Letters: N = batch x heads programs, S segments of L tokens, R the rank and W the next power of two
(lanes beyond R hold zeros), P = 2 W (slots of a map: W directions, then the offset at slot W).
q, k, v and gates are contiguous [B, T, H, R].
"""

# Triton compiles annotations too, so that parameters of kernels have none but constexpr.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(n, t, T, H, R: tl.constexpr, W: tl.constexpr):
    """Offsets of the lanes of token t in [B, T, H, R]."""
    return (((n // H) * T + t) * H + n % H) * R + tl.arange(0, W)


@triton.jit
def _inside(t, T, R: tl.constexpr, W: tl.constexpr):
    """Which lanes hold a token that is inside the sequence."""
    lane = tl.arange(0, W)
    return (lane < R) & (lane * 0 + t < T)


@triton.jit
def _here(
    mask, n, t, T, H,
    R: tl.constexpr, W: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Which lanes hold a token that is inside the sequence and not masked."""
    here = _inside(t, T, R, W)
    if MASKED:
        at = (n // H) * T + t + tl.arange(0, W) * 0
        here = here & (tl.load(mask + at, mask=here, other=0) != 0)
    return here


@triton.jit
def _square(W: tl.constexpr):
    """Offsets inside one [W, W] matrix."""
    return tl.arange(0, W)[:, None] * W + tl.arange(0, W)[None, :]


@triton.jit
def _after(state, k, v, keep, erase, write, at, here):
    """One write (equation 12), from global memory; a token that is not here changes nothing."""
    key = tl.load(k + at, mask=here, other=0.0)
    value = tl.load(write + at, mask=here, other=0.0) * tl.load(v + at, mask=here, other=0.0)
    gone = tl.load(erase + at, mask=here, other=0.0) * tl.sum(state * key[None, :], 1)
    stays = tl.load(keep + at, mask=here, other=1.0)
    return stays[:, None] * state + (value - gone)[:, None] * key[None, :]


@triton.jit
def find_maps(
    q, k, v, keep, erase, write, mask, of_reads, maps,
    T, H, S,
    R: tl.constexpr, W: tl.constexpr, P: tl.constexpr, L: tl.constexpr,
    MASKED: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Maps [N, S, W, P, W]: of the state forwards, or of its gradient backwards."""
    n, segment = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane, slot = tl.arange(0, W), tl.arange(0, P)
    found = tl.where(slot[None, :, None] == lane[None, None, :], 1.0, 0.0)
    found = found + tl.zeros([W, P, W], tl.float32)
    offset = slot == W
    for i in range(L):
        t = segment * L + ((L - 1 - i) if BACK else i)
        at, here = _place(n, t, T, H, R, W), _here(mask, n, t, T, H, R, W, MASKED)
        key = tl.load(k + at, mask=here, other=0.0)
        stays = tl.load(keep + at, mask=here, other=1.0)
        gone = tl.load(erase + at, mask=here, other=0.0)
        change = -gone[:, None] * tl.sum(found * key[None, None, :], 2)
        if BACK:
            asked = tl.load(of_reads + at, mask=here, other=0.0)
            query = tl.load(q + at, mask=here, other=0.0)
            new = (asked[:, None] * query[None, :])[:, None, :]
            new = tl.where(offset[None, :, None], new, 0.0)
        else:
            value = tl.load(write + at, mask=here, other=0.0)
            value = value * tl.load(v + at, mask=here, other=0.0)
            change = change + tl.where(offset[None, :], value[:, None], 0.0)
            new = tl.zeros([W, P, W], tl.float32)
        found = stays[:, None, None] * found + change[:, :, None] * key[None, None, :] + new
    place = ((n * S + segment) * W + lane)[:, None, None] * (P * W)
    tl.store(maps + place + slot[None, :, None] * W + lane[None, None, :], found)


@triton.jit
def chain_maps(
    first, maps, starts, S,
    W: tl.constexpr, P: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Starts [N, S, W, W]: what each segment starts from, given what the first does [N, W, W]."""
    n = tl.program_id(0).to(tl.int64)
    lane, slot = tl.arange(0, W), tl.arange(0, P)
    inside = (slot[None, :] < W) & (lane[:, None] < W)
    one = tl.where(slot == W, 1.0, 0.0)[None, :]
    place = lane[:, None] * W + slot[None, :]
    state = tl.load(first + n * W * W + place, mask=inside, other=0.0) + one
    for i in range(S):
        segment = n * S + ((S - 1 - i) if BACK else i)
        tl.store(starts + segment * W * W + place, state, mask=inside)
        at = (segment * W + lane)[:, None, None] * (P * W) + slot[None, :, None] * W
        fits = (slot[None, None, :] < W) & (slot[None, :, None] < P) & (lane[:, None, None] < W)
        found = tl.load(maps + at + slot[None, None, :], mask=fits, other=0.0)
        state = tl.sum(state[:, :, None] * found, 1) + one


@triton.jit
def run_segments(
    q, k, v, keep, erase, write, mask,
    starts, reads, after, T, H, S,
    R: tl.constexpr, W: tl.constexpr, L: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Reads [B, T, H, R] and after [N, W, W]."""
    n, segment = tl.program_id(0).to(tl.int64), tl.program_id(1)
    state = tl.load(starts + (n * S + segment) * W * W + _square(W))
    for i in range(L):
        t = segment * L + i
        at, here = _place(n, t, T, H, R, W), _here(mask, n, t, T, H, R, W, MASKED)
        query = tl.load(q + at, mask=here, other=0.0)
        answer = tl.where(here, tl.sum(state * query[None, :], 1), 0.0)
        tl.store(reads + at, answer, mask=_inside(t, T, R, W))
        state = _after(state, k, v, keep, erase, write, at, here)
    if segment == S - 1:
        tl.store(after + n * W * W + _square(W), state)


@triton.jit
def recompute(
    k, v, keep, erase, write, mask,
    starts, past, T, H, S,
    R: tl.constexpr, W: tl.constexpr, L: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Past [N, S, L, W, W]: the state before each token; for the backward only."""
    n, segment = tl.program_id(0).to(tl.int64), tl.program_id(1)
    state = tl.load(starts + (n * S + segment) * W * W + _square(W))
    for i in range(L):
        t = segment * L + i
        tl.store(past + ((n * S + segment) * L + i) * W * W + _square(W), state)
        at, here = _place(n, t, T, H, R, W), _here(mask, n, t, T, H, R, W, MASKED)
        state = _after(state, k, v, keep, erase, write, at, here)


@triton.jit
def undo_segments(
    q, k, v, keep, erase, write, mask,
    past, ends, of_reads,
    of_q, of_k, of_v, of_keep, of_erase, of_write, of_state,
    T, H, S,
    R: tl.constexpr, W: tl.constexpr, L: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs, and of_state [N, W, W]; README.md derives them."""
    n, segment = tl.program_id(0).to(tl.int64), tl.program_id(1)
    grad = tl.load(ends + (n * S + segment) * W * W + _square(W))
    for back in range(L):
        i = L - 1 - back
        t = segment * L + i
        at, here = _place(n, t, T, H, R, W), _here(mask, n, t, T, H, R, W, MASKED)
        inside = _inside(t, T, R, W)
        state = tl.load(past + ((n * S + segment) * L + i) * W * W + _square(W))
        key = tl.load(k + at, mask=here, other=0.0)
        value = tl.load(v + at, mask=here, other=0.0)
        gone = tl.load(erase + at, mask=here, other=0.0)
        written = tl.load(write + at, mask=here, other=0.0)
        asked = tl.load(of_reads + at, mask=here, other=0.0)
        known = tl.sum(state * key[None, :], 1)
        of_change = tl.sum(grad * key[None, :], 1)
        of_known = -gone * of_change
        change = written * value - gone * known
        of_key = tl.sum(change[:, None] * grad + of_known[:, None] * state, 0)
        tl.store(of_q + at, tl.sum(asked[:, None] * state, 0), mask=inside)
        tl.store(of_k + at, tl.where(here, of_key, 0.0), mask=inside)
        tl.store(of_v + at, written * of_change, mask=inside)
        tl.store(of_keep + at, tl.where(here, tl.sum(grad * state, 1), 0.0), mask=inside)
        tl.store(of_erase + at, -known * of_change, mask=inside)
        tl.store(of_write + at, value * of_change, mask=inside)
        query = tl.load(q + at, mask=here, other=0.0)
        grad = tl.load(keep + at, mask=here, other=1.0)[:, None] * grad
        grad = grad + of_known[:, None] * key[None, :] + asked[:, None] * query[None, :]
    if segment == 0:
        tl.store(of_state + n * W * W + _square(W), grad)
