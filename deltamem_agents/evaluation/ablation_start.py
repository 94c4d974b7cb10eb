"""What a cell of the ablation begins with: the part of a trained adapter that both of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.adapter import DeltaMemConfig, adapter_parameters
from deltamem_agents.adapter.files import read


@torch.no_grad()
def begin_with(model: Any, config: DeltaMemConfig, folder: Path) -> None:
    """Take over the weights that the adapter in `folder` has too.

    Of fewer heads, or of a lower rank, the first ones are taken; of more, those beyond the
    adapter's stay as they were initialised.

    Args:
        model: with an adapter attached.
        config: of that adapter.
        folder: of the trained one.
    """
    trained, tensors, _ = read(folder)
    for name, parameter in adapter_parameters(model):
        if name in tensors:
            _copy(tensors[name], parameter, trained, config, axis=int(".delta_" in name))


def _copy(
    source: Tensor, target: Tensor, trained: DeltaMemConfig, config: DeltaMemConfig, axis: int
) -> None:
    """Copy what both have; `axis` is that of heads and rank, flattened (the others must agree)."""
    if source.shape == target.shape:
        target.copy_(source)
        return
    old, new = (trained.heads, trained.rank), (config.heads, config.rank)
    if source.shape[axis] != old[0] * old[1] or target.shape[axis] != new[0] * new[1]:
        return  # gates of another kind
    view = target.view(*target.shape[:axis], *new, *target.shape[axis + 1 :])
    whole = source.view(*source.shape[:axis], *old, *source.shape[axis + 1 :])
    heads, rank = min(old[0], new[0]), min(old[1], new[1])
    if axis:
        view[:, :heads, :rank] = whole[:, :heads, :rank]
    else:
        view[:heads, :rank] = whole[:heads, :rank]
