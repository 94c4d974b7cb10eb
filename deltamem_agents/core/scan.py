"""The scan: read the memory and write it, token after token, for a whole sequence at once.

One door. Behind it a Numba kernel on the CPU, a Triton kernel on CUDA, and plain torch in chunks
everywhere else; all three agree with `core.reference` to rounding, gradients included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from deltamem_agents.core.scan_chunked import scan_chunked
from deltamem_agents.errors import StateError

_Scan = Callable[..., tuple[Tensor, Tensor]]

_LARGEST_RANK = 64  # the native forms are unrolled over R; beyond, compiling takes minutes


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the delta rule over a sequence (equations 6 and 12): read before write.

    Token t reads `S q_t`, then row i of S becomes
    `keep_i s_i - erase_i (s_i . k_t) k_t + write_i v_i k_t`.

    Args:
        q: queries [B, T, H, R], float32. Of any strides, here and below: slices of one packed
            projection and expanded gates need no copy.
        k: keys [B, T, H, R].
        v: values [B, T, H, R].
        keep: what stays of row i, [B, T, H, R].
        erase: how much of what row i predicts for the key is taken away, [B, T, H, R].
        write: how much of the value is written to row i, [B, T, H, R].
        state: the memory before the first token, float32 [B, H, R, R]; it is left alone.
        mask: bool [B, T]; where it is False a token reads 0 and the memory stays as it is.

    Returns:
        reads [B, T, H, R] and the memory after the last token [B, H, R, R]; differentiable once
        with respect to all seven.

    Raises:
        StateError: a shape, dtype or device is not as above.
    """
    _check(q, (k, v, keep, erase, write), state, mask)
    if torch.compiler.is_compiling():  # plain torch is what a compiler can see into
        return scan_chunked(q, k, v, keep, erase, write, state, mask)
    scan = _behind_the_door(q.device.type, q.shape[-1])
    return scan(q, k, v, keep, erase, write, state, mask)


@cache
def _behind_the_door(device: str, rank: int) -> _Scan:
    """The one place where a kernel is chosen."""
    if rank > _LARGEST_RANK:
        return scan_chunked
    if device == "cpu" and find_spec("numba") is not None:
        from deltamem_agents.core.scan_cpu import scan_cpu

        return scan_cpu
    if device == "cuda" and find_spec("triton") is not None:
        from deltamem_agents.core.scan_triton import scan_triton

        return scan_triton
    return scan_chunked


def _check(q: Tensor, rest: tuple[Tensor, ...], state: Tensor, mask: Tensor | None) -> None:
    shape, device = q.shape, q.device
    if len(shape) != 4 or any(x.shape != shape for x in rest):
        raise StateError(
            "q, k, v, keep, erase and write have one shape [B, T, H, R]",
            got=[tuple(x.shape) for x in (q, *rest)],
            remedy="Give all six the shape of q.",
        )
    batch, tokens, heads, rank = shape
    if state.shape != (batch, heads, rank, rank):
        raise StateError(
            f"the state of this call is [B, H, R, R] = {[batch, heads, rank, rank]}",
            got=tuple(state.shape),
            remedy="Give each row of the batch its own memory; nothing is broadcast.",
        )
    if any(x.dtype != torch.float32 or x.device != device for x in (q, *rest, state)):
        raise StateError(
            "gates, state and scan are float32 on one device",
            got=[(x.dtype, str(x.device)) for x in (q, *rest, state)],
            remedy="Call .float() on what the backbone computed.",
        )
    if mask is not None and (
        mask.dtype != torch.bool or mask.shape != (batch, tokens) or mask.device != device
    ):
        raise StateError(
            f"the mask is bool [B, T] = {[batch, tokens]} on the same device",
            got=(mask.dtype, tuple(mask.shape), str(mask.device)),
            remedy="Make it with q.new_ones(batch, tokens, dtype=torch.bool).",
        )
