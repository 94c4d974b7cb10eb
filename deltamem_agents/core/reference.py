"""The slow truth: one token after another, in any float dtype, by autograd.

Every fast form is tested against this one, outputs, final state and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deltamem_agents.core.rule import read, update


def delta_scan_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read before write, token after token.

    Args:
        q: queries [B, T, H, R].
        k: keys [B, T, H, R].
        v: values [B, T, H, R].
        keep: gate on the old row [B, T, H, R].
        erase: gate on the row's prediction [B, T, H, R].
        write: gate on the value [B, T, H, R].
        state: the memory before the first token, [B, H, R, R].
        mask: bool [B, T]; where it is False a token reads 0 and writes nothing.

    Returns:
        reads [B, T, H, R] and the memory after the last token [B, H, R, R].
    """
    reads = [torch.zeros_like(q[:, :0])]
    for t in range(q.shape[1]):
        answer = read(state, q[:, t])
        after = update(state, k[:, t], v[:, t], keep[:, t], erase[:, t], write[:, t])
        if mask is not None:
            here = mask[:, t, None, None]
            answer = answer.where(here, torch.zeros_like(answer))
            after = after.where(here.unsqueeze(-1), state)
        reads.append(answer.unsqueeze(1))
        state = after
    return torch.cat(reads, 1), state
