"""Corrections on their way from the memory to the projections that take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LowRank(NamedTuple):
    """A correction that has not been multiplied out, so that it can be added while it is.

    In a prefill the product is hundreds of times larger than its factors, and writing it to memory
    and reading it again costs ten times what the multiplication does.

    Args:
        reads: [B, T, S].
        weight: [out, S], of the same dtype.
    """

    reads: Tensor
    weight: Tensor


Correction = Tensor | LowRank


def corrected(
    output: Tensor,
    correction: Correction,
    rows: tuple[int, ...] | None = None,
    *,
    in_place: bool = False,
) -> Tensor:
    """A projection's output with its correction added.

    Args:
        output: [B, T, out].
        correction: [B, T, out], or [B, T, len(rows)].
        rows: which output features are corrected, when others are not.
        in_place: whether a `LowRank` may be added into `output`, because nobody else holds it.
    """
    if isinstance(correction, LowRank):
        reads, weight = correction
        fits = rows is None and output.dtype == reads.dtype and output.is_contiguous()
        if in_place and fits:
            flat = output.view(-1, weight.shape[0])
            flat.addmm_(reads.reshape(-1, weight.shape[1]), weight.t())
            return output
        with torch.autocast(output.device.type, enabled=False):
            correction = F.linear(reads, weight)
    if correction.dtype != output.dtype:
        correction = correction.to(output.dtype)
    if rows is not None:
        index = torch.tensor(rows, device=output.device)
        correction = torch.zeros_like(output).index_copy(-1, index, correction)
    return output + correction
