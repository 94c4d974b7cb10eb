"""Sums of hidden states by segment, for writes of a message's or sentence's mean."""

from __future__ import annotations

import torch
from torch import Tensor

Sums = tuple[Tensor, Tensor]


def segment_sums(x: Tensor, ids: Tensor) -> Sums:
    """Sum hidden states by segment.

    Args:
        x: [B, T, d].
        ids: [B, T] integers, -1 for a token in no segment.

    Returns:
        sums [B, M, d] and counts [B, M], M being the highest number + 1.
    """
    batch, length, width = x.shape
    count = int(ids.max()) + 1 if ids.numel() else 0
    slots = torch.where(ids >= 0, ids, count)  # the last slot takes tokens of no segment
    rows = torch.arange(batch, device=ids.device)[:, None] * (count + 1)
    flat = (slots + rows).reshape(-1)
    size = batch * (count + 1)
    sums = x.new_zeros(size, width).index_add(0, flat, x.reshape(-1, width))
    ones = x.new_ones(batch * length)
    counts = x.new_zeros(size).index_add(0, flat, ones)
    return (
        sums.view(batch, count + 1, width)[:, :count],
        counts.view(batch, count + 1)[:, :count],
    )


def add_sums(first: Sums | None, second: Sums) -> Sums:
    """Sums over two pieces of text; segments are matched by number."""
    if first is None:
        return second
    missing = second[0].shape[1] - first[0].shape[1]
    if missing < 0:
        return add_sums(second, first)
    sums = torch.nn.functional.pad(first[0], (0, 0, 0, missing)) + second[0]
    return sums, torch.nn.functional.pad(first[1], (0, missing)) + second[1]
