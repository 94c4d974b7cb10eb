"""An adapter's matrices side by side in memory, so that inference multiplies by two of them.

The parameters keep their names and stay what optimizers and files see; each is a window on one
buffer. Where something has moved a parameter elsewhere (another device, a copy, a sharded
trainer), the windows no longer line up; that is noticed, and the matrices are concatenated anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter | None]


class Packed:
    """Parameters of one module that share a buffer, stacked along their first axis.

    Args:
        owner: the module's table of parameters.
        names: which of them, in order; of one dtype and device, and of equal trailing shape.
        lead: number of zeros in front of them.
    """

    def __init__(self, owner: Parameters, names: Sequence[str], lead: int = 0) -> None:
        parts = [_parameter(owner, name) for name in names]
        with torch.inference_mode(False), torch.no_grad():
            zeros = parts[0].new_zeros(lead, *parts[0].shape[1:])
            self.buffer = torch.cat([zeros, *(part.detach() for part in parts)])
            start = lead
            for part in parts:
                part.data = self.buffer[start : start + part.shape[0]]
                start += part.shape[0]
        self._windows = [(n, p, p.data_ptr()) for n, p in zip(names, parts, strict=True)]

    def holds(self, owner: Parameters) -> bool:
        """Whether every parameter is still the window it was made."""
        return all(owner.get(n) is p and p.data_ptr() == at for n, p, at in self._windows)


def can_pack(owner: Parameters, names: Sequence[str]) -> bool:
    """Whether these parameters are plain float32 tensors on one real device."""
    parts = [_parameter(owner, name) for name in names]
    devices = {part.device for part in parts}
    return (
        len(devices) == 1
        and next(iter(devices)).type != "meta"
        and all(type(p) is nn.Parameter and p.dtype == torch.float32 for p in parts)
    )


def stacked(owner: Parameters, names: Sequence[str]) -> Tensor:
    """The parameters stacked anew, in float32 and with their gradient."""
    return torch.cat([_parameter(owner, name).float() for name in names])


def _parameter(owner: Parameters, name: str) -> nn.Parameter:
    parameter = owner[name]
    assert parameter is not None
    return parameter
