"""An adapter's matrices side by side in memory, so that inference multiplies by two of them.

The parameters keep their names and stay what optimizers and files see; each is a window on one
buffer. Where something has moved a parameter elsewhere (another device, a copy, a sharded
trainer), the windows no longer line up; that is noticed, and the matrices are concatenated anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter | None]


class Packed:
    """Parameters of one module that share a buffer, stacked along their first axis.

    Args:
        owner: the module's table of parameters; all of them plain float32 tensors on one device.
        inward: names of the matrices that read hidden states, in order.
        bias: of their biases; where there are fewer, the first ones have none.
        outward: of the matrices that make corrections.
    """

    def __init__(
        self,
        owner: Parameters,
        inward: Sequence[str],
        bias: Sequence[str],
        outward: Sequence[str],
    ) -> None:
        self.inward = _side_by_side(owner, inward)
        rows = sum(_parameter(owner, name).shape[0] for name in bias)
        self.bias = _side_by_side(owner, bias, lead=self.inward.shape[0] - rows)
        self.outward = _side_by_side(owner, outward)
        self._parameters = tuple(owner.values())
        self._addresses = tuple(map(Tensor.data_ptr, self._parameters))  # type: ignore[arg-type]

    def holds(self, owner: Parameters) -> bool:
        """Whether every parameter is still where it was; asked a layer and token, so in C."""
        here = owner.values()
        return (
            len(here) == len(self._parameters)
            and all(map(is_, here, self._parameters))
            and tuple(map(Tensor.data_ptr, here)) == self._addresses  # type: ignore[arg-type]
        )


def _side_by_side(owner: Parameters, names: Sequence[str], lead: int = 0) -> Tensor:
    parts = [_parameter(owner, name) for name in names]
    with torch.inference_mode(False), torch.no_grad():
        zeros = parts[0].new_zeros(lead, *parts[0].shape[1:])
        buffer = torch.cat([zeros, *(part.detach() for part in parts)])
        start = lead
        for part in parts:
            part.data = buffer[start : start + part.shape[0]]
            start += part.shape[0]
    return buffer


def can_pack(owner: Parameters) -> bool:
    """Whether these parameters are plain float32 tensors on one real device."""
    parts = [_parameter(owner, name) for name in owner]
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
