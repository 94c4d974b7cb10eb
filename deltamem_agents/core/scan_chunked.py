"""The scan in plain torch: exact in chunks of 16 tokens, sequential over chunks only.

Works on any device and in any float dtype; README.md derives it. Decays are masked cumulative
products, never logarithms: with a keep gate near 0 a logarithm's gradient is garbage.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 16
_BLOCK_ELEMENTS = 256 * 1024  # of one [.., chunk, chunk] intermediate, so that it stays in cache


def scan_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`core.scan.delta_scan` by chunks; shapes and meaning as there.

    Returns:
        reads [B, T, H, R] and the state [B, H, R, R].
    """
    batch, tokens, heads, rank = q.shape
    if tokens == 0:
        return torch.zeros_like(q), state.clone()
    block = max(CHUNK, _BLOCK_ELEMENTS // (batch * heads * rank * CHUNK) // CHUNK * CHUNK)
    reads = []
    for start in range(0, tokens, block):
        span = slice(start, start + block)
        parts = [x[:, span] for x in (q, k, v, keep, erase, write)]
        if mask is not None:
            parts = _silence(parts, mask[:, span])
        part, state = _block(parts, state)
        reads.append(part)
    return reads[0] if len(reads) == 1 else torch.cat(reads, 1), state


def _silence(parts: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Make masked tokens neutral: they ask for nothing and keep all, whatever they hold."""
    here = mask[:, :, None, None]
    q, k, v, keep, erase, write = parts
    zero = q.new_zeros(())
    silent = [x.where(here, zero) for x in (q, k, v, erase, write)]
    return [*silent[:3], keep.where(here, q.new_ones(())), *silent[3:]]


class _Decay(NamedTuple):
    """Products of keep gates inside a chunk of C tokens.

    Attributes:
        before: [.., R, C]: from the chunk's start to before token t.
        between: [.., R, C, C]: from after token j to before token t where j < t; else 1.
        after: [.., R, C]: from after token j to the chunk's end.
        whole: [.., R]: over the chunk.
    """

    before: Tensor
    between: Tensor
    after: Tensor
    whole: Tensor


def _decay(keep: Tensor) -> _Decay:
    """Args: keep [.., R, C]."""
    size = keep.shape[-1]
    previous = pad(keep[..., :-1], (1, 0), value=1.0)
    following = pad(keep[..., 1:], (0, 1), value=1.0)
    later = torch.ones(size, size, dtype=torch.bool, device=keep.device).tril(-2)
    before = previous.cumprod(-1)
    return _Decay(
        before=before,
        between=previous.unsqueeze(-1).where(later, keep.new_ones(())).cumprod(-2),
        after=following.flip(-1).cumprod(-1).flip(-1),
        whole=before[..., -1] * keep[..., -1],
    )


def _block(parts: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """All chunks of one block at once; M chunks of C tokens."""
    q, k, v, keep, erase, write = parts
    tokens, rank = q.shape[1], q.shape[3]
    size = min(CHUNK, tokens)
    queries, keys = _chunks(q, size), _chunks(k, size)  # [B, H, M, C, R]
    values, erases = _rows(write * v, size), _rows(erase, size)  # [B, H, M, R, C]
    decay = _decay(_rows(keep, size, 1.0))

    keys_t = keys.transpose(-1, -2)
    similar = (keys @ keys_t).tril(-1).unsqueeze(3)
    asked = (queries @ keys_t).tril(-1).unsqueeze(3)
    rows_of_keys = keys.unsqueeze(3)  # [B, H, M, 1, C, R]
    lower = erases.unsqueeze(-1) * decay.between * similar
    target = -(erases * decay.before).unsqueeze(-1) * rows_of_keys
    right = torch.cat((values.unsqueeze(-1), target), -1)  # [B, H, M, R, C, 1 + R]
    written = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)

    answer = (asked * decay.between) @ written
    ends = written.transpose(-1, -2) @ (decay.after.unsqueeze(-1) * rows_of_keys)
    eye = torch.eye(rank, dtype=q.dtype, device=q.device)
    carry = ends[..., 1:, :] + decay.whole[..., None, None] * eye  # [B, H, M, R, R, R]
    starts, state = _chain(state, ends[..., 0, :], carry)

    of_state = answer[..., 1:] + decay.before.unsqueeze(-1) * queries.unsqueeze(3)
    reads = answer[..., 0] + (of_state @ starts.unsqueeze(-1)).squeeze(-1)  # [B, H, M, R, C]
    return reads.permute(0, 2, 4, 1, 3).flatten(1, 2)[:, :tokens], state


def _chain(state: Tensor, offset: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
    """The only sequential part: row i of the state goes through its own affine map a chunk.

    Args:
        state: [B, H, R, R].
        offset: [B, H, M, R, R].
        carry: [B, H, M, R, R, R].

    Returns:
        the state at each chunk's start [B, H, M, R, R], and after the last [B, H, R, R].
    """
    batch, heads, count, rank, _ = offset.shape
    maps = carry.transpose(0, 2).reshape(count, heads * batch * rank, rank, rank).unbind(0)
    adds = offset.transpose(0, 2).reshape(count, heads * batch * rank, 1, rank).unbind(0)
    now = state.transpose(0, 1).reshape(-1, 1, rank)
    starts = []
    for one_map, one_add in zip(maps, adds, strict=True):
        starts.append(now)
        now = torch.baddbmm(one_add, now, one_map)
    stacked = torch.stack(starts).reshape(count, heads, batch, rank, rank)
    return stacked.transpose(0, 2), now.reshape(heads, batch, rank, rank).transpose(0, 1)


def _chunks(values: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """[B, T, H, R] to [B, H, M, C, R], filled up at the end."""
    batch, tokens, heads, rank = values.shape
    values = pad(values, (0, 0, 0, 0, 0, -tokens % size), value=fill)
    return values.reshape(batch, -1, size, heads, rank).permute(0, 3, 1, 2, 4)


def _rows(values: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """[B, T, H, R] to [B, H, M, R, C]."""
    return _chunks(values, size, fill).transpose(-1, -2)
