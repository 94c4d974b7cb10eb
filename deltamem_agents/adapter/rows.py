"""What `generate` does to the rows of a batch, told from the tokens that it feeds.

It repeats each prompt for beams and samples, and it goes on feeding padding to rows that have ended
while others have not, with an attention mask that says nothing of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deltamem_agents.adapter.store import MemoryStore


def fan_out(store: MemoryStore, tokens: Tensor) -> None:
    """Give each beam or sample the memory of its session, before the first token is read.

    Done only where every session's rows hold the same tokens; other batches that do not match are
    left for the store to refuse.

    Args:
        store: memories of B sessions.
        tokens: ids [B n, T] or embeddings [B n, T, d].
    """
    sessions, rows = store.batch, tokens.shape[0]
    if not sessions or rows <= sessions or rows % sessions:
        return
    groups = tokens.reshape(sessions, rows // sessions, *tokens.shape[1:])
    if torch.equal(groups, groups[:, :1].expand_as(groups)):
        store.map(lambda held: held.repeat_interleave(rows // sessions, 0))


def unfinished(
    store: MemoryStore, tokens: Tensor, generation: Any, pad_id: int | None
) -> Tensor | None:
    """Bool[B, 1], False for padding after a row's end; None where there can be none.

    While a batch decodes, one token a row, the padding id is padding; where an end token serves as
    padding, the first one is the text's own, and those after it are padding.

    Args:
        store: of this batch; it keeps the row's last tokens.
        tokens: ids [B, T], or embeddings [B, T, d], of which nothing can be told.
        generation: the model's generation config, or None.
        pad_id: the padding id, if it is not that of the generation config.
    """
    last, store.last = store.last, None
    if tokens.dim() != 2 or tokens.shape[0] == 1 or tokens.shape[1] != 1:
        return None
    ends = _ids(getattr(generation, "eos_token_id", None))
    pads = _ids(getattr(generation, "pad_token_id", None) if pad_id is None else pad_id) or ends[:1]
    if not pads:
        return None
    padding = tokens == pads[0]
    if pads[0] in ends:
        store.last = tokens.clone()  # the caller may use its buffer again
        if last is None:
            return None
        padding &= torch.isin(last, torch.tensor(ends, device=tokens.device))
    return ~padding


def _ids(given: Any) -> list[int]:
    if given is None:
        return []
    if isinstance(given, Tensor):
        given = given.tolist()
    return [given] if isinstance(given, int) else [int(each) for each in given]
