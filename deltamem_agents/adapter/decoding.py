"""One token a session, through all layers: what does not hang on hidden states is laid out at once.

While a model decodes, a layer's memory has little to compute and much to fetch: between two of our
layers the backbone sweeps code and data out of the caches. So checks, buffers and addresses of all
layers are prepared in one go when the first of them is reached, and each then makes a single call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltamem_agents.adapter.history import Left, Undo

if TYPE_CHECKING:
    from deltamem_agents.adapter.call import CallContext
    from deltamem_agents.adapter.memory import DeltaMemory
    from deltamem_agents.core.step_cpu import LayerStep

#: Up to so many sessions are read one by one; of more, matrix products take less time.
FEW = 8


class Decoding:
    """The prepared layers of one call.

    Args:
        context: the call; one token a session, without gradients, padding or masks.
        hidden: what the first layer reads, [B, 1, d]; only its shape and dtype are looked at.
    """

    def __init__(self, context: CallContext, hidden: Tensor) -> None:
        self._shape, self._dtype = hidden.shape, hidden.dtype
        self._runs: dict[int, Callable[[int], None]] = {}
        self._parts: dict[int, dict[str, Tensor]] = {}
        self._after: dict[int, Left] = {}
        if hidden.is_cpu and hidden.shape[0] <= FEW and hidden.dtype in _DTYPES:
            self._prepare(context, hidden)

    def _prepare(self, context: CallContext, hidden: Tensor) -> None:
        batch, plan = context.batch, context.store.plan
        shape = (len(plan.layers), batch, *plan.shape[1:])
        states = iter(torch.empty(shape, dtype=torch.float32).unbind(0))
        for steps in _alike(context.running, hidden.shape[2]):
            memory, step = steps[0][1:]
            results = torch.empty((len(steps), batch, 1, step.width), dtype=hidden.dtype)
            scratch = torch.empty(step.scratch, dtype=torch.float32)  # used up within a step
            parts = memory.split(results)
            named = zip(*(part.unbind(0) for part in parts.values()), strict=True)
            rows = zip(steps, results.unbind(0), named, states, strict=False)
            for (layer, _, step), result, pieces, after in rows:
                before = context.store.get(layer, batch, hidden.device).contiguous()
                self._parts[layer] = dict(zip(parts, pieces, strict=True))
                self._runs[layer] = step.bind(before, after, result, scratch)
                self._after[layer] = (after, Undo(1, before), None)

    def read(self, hidden: Tensor, context: CallContext, layer: int) -> dict[str, Tensor] | None:
        """Read and write one layer's memory.

        Returns:
            its corrections; None if this layer is not prepared for these hidden states.
        """
        run = self._runs.get(layer)
        if run is None or hidden.shape != self._shape or hidden.dtype != self._dtype:
            return None
        rows = hidden.contiguous()  # named, so that it lives until its address has been read
        run(rows.data_ptr())
        context.left[layer] = self._after[layer]
        return self._parts[layer]


_DTYPES = (torch.float32, torch.bfloat16)


def _alike(
    running: dict[int, DeltaMemory], width: int
) -> Iterable[list[tuple[int, DeltaMemory, LayerStep]]]:
    """The layers that have a native step, in groups whose corrections have one layout."""
    groups: dict[tuple[object, ...], list[tuple[int, DeltaMemory, LayerStep]]] = {}
    for layer, memory in running.items():
        step = None if memory.ready() is None else memory.native
        if step is not None and step.hidden == width:
            key = (*memory.sizes.items(), step.scratch)
            groups.setdefault(key, []).append((layer, memory, step))
    return groups.values()
