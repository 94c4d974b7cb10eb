"""A whole batch of conversations through an adapter that writes by message, call by call.

Such an adapter reads, in one call, the state from before the call; so every message is a call of
its own, as when the model is served, and keys and values live as long as their block.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.adapter import MemoryCache, MemoryCall
from deltamem_agents.training.rows import PINNED, Rows


def hidden_by_message(model: Any, rows: Rows) -> Tensor:
    """Hidden states [B, T, d] of a batch; the gradient runs through the states.

    Args:
        model: a causal LM with an adapter that writes by message.
        rows: the batch; every message begins with the token that the first one begins with.
    """
    lines = []
    for row in range(len(rows.ids)):
        count = int(rows.real[row].sum())
        hidden = torch.cat(_messages(model, rows, row, count), dim=1)
        lines.append(torch.nn.functional.pad(hidden, (0, 0, 0, rows.ids.shape[1] - count)))
    return torch.cat(lines)


def _messages(model: Any, rows: Rows, row: int, count: int) -> list[Tensor]:
    """Hidden states [1, length, d] of each message of one row.

    The system prompt is written once; every block begins by reading it again without writing.
    """
    ids, blocks = rows.ids[row, :count], rows.blocks[row, :count]
    starts = [*(ids == ids[0]).nonzero()[:, 0].tolist(), count]
    cache, block, pinned = MemoryCache(model), PINNED, 0
    parts: list[Tensor] = []

    def read(start: int, end: int, write: bool) -> Tensor:
        output = model.model(
            input_ids=ids[None, start:end],
            position_ids=rows.positions[row, None, start:end],
            past_key_values=cache,
            use_cache=True,
            delta_mem=MemoryCall(segment_ids=0, write=write),
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    for start, end in pairwise(starts):
        if int(blocks[start]) == PINNED:
            pinned = end
        elif int(blocks[start]) != block:
            cache, block = MemoryCache(model, memory=cache.memory), int(blocks[start])
            if pinned:
                read(0, pinned, False)
        parts.append(read(start, end, True))
    return parts
