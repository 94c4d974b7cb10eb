"""Ways of running a decoder that a memory cannot go along with, refused before anything is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deltamem_agents.adapter.call import MemoryCall
from deltamem_agents.errors import UnsupportedModelError


def refuse_ways(
    decoder: nn.Module, kwargs: dict[str, Any], given: MemoryCall, length: int
) -> None:
    """Refuse a call in which a row is not one text with a cache of its own.

    Args:
        decoder: that is called.
        kwargs: of the call.
        given: what the memory was told.
        length: tokens a row.

    Raises:
        UnsupportedModelError: paged attention, or several texts packed into a row.
    """
    attention = getattr(decoder.config, "_attn_implementation", None) or ""
    if str(attention).startswith("paged") or kwargs.get("cache") is not None:
        raise UnsupportedModelError(
            "a δ-mem reads each session as one row with a cache of its own",
            got="paged attention (transformers' continuous batching)",
            remedy="Use model.generate, or the scheduler of deltamem_agents.runtime.",
        )
    packed = kwargs.get("cu_seq_lens_q") is not None
    if length > 1 and not packed and kwargs.get("attention_mask") is None:
        packed = _starts_again(kwargs.get("position_ids"), given.token_mask)
    if packed:
        raise UnsupportedModelError(
            "each row of a batch is one text",
            got="several texts packed into a row (cu_seq_lens_q, or position_ids that do not go "
            "on by one)",
            remedy="Pad the batch instead of packing it, with an attention_mask.",
        )


def _starts_again(positions: Any, token_mask: Tensor | None) -> bool:
    """Whether positions [B, T] do not go on by one somewhere between tokens that are read.

    Without an attention mask, transformers too takes such a place for the border of two texts.
    Positions of other shapes (one for each of several axes) have borders that are none.
    """
    if not isinstance(positions, Tensor) or positions.dim() != 2 or torch.compiler.is_compiling():
        return False  # a compiler cannot ask
    goes_on = positions.diff(dim=1) == 1
    if token_mask is not None and token_mask.shape[1:] == positions.shape[1:]:
        real = token_mask.to(positions.device).bool()
        goes_on = goes_on | ~(real[:, 1:] & real[:, :-1])
    return not bool(goes_on.all())
