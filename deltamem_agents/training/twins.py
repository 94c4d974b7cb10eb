"""One vector for a word, with and without the space before it.

The tokenizer has two tokens for most words. What is copied often changes from one to the other: a
sentence that a system prompt gives after "say: " begins a reply, and a value that stood after a
space becomes a quoted argument. Trained from noise, the two vectors of a word have nothing in
common, and each word's change has to be learnt on its own. With one vector for both and one offset,
the same for all words, what is learnt of some words holds for all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

SPACE = "Ġ"  # how a byte-level vocabulary writes a leading space


def twins(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int]]:
    """Ids of every word or number that is a token both without and with a space before it."""
    vocabulary = tokenizer.get_vocab()
    return sorted(
        (number, vocabulary[SPACE + token])
        for token, number in vocabulary.items()
        if re.fullmatch(rf"[^\W{SPACE}_]+", token) and SPACE + token in vocabulary
    )


@torch.no_grad()
def share_twins(
    embedding: nn.Embedding,
    pairs: list[tuple[int, int]],
    counts: Mapping[int, int],
    *,
    most: int = 20,
    length: float = 3.0,
) -> int:
    """Give the rarer of two twins the vector of the other, plus or minus the common offset.

    Args:
        embedding: changed in place.
        pairs: see `twins`.
        counts: how often a token occurs in a sample of the data.
        most: pairs of which both occur more often keep what they have learnt.
        length: of the offset, whose direction is that of the twins' mean difference.

    Returns:
        How many vectors were changed.
    """
    weight: Tensor = embedding.weight
    bare, spaced = (torch.tensor(side) for side in zip(*pairs, strict=True))
    offset = nn.functional.normalize((weight[bare] - weight[spaced]).mean(0), dim=0) * length
    changed = 0
    for one, other in pairs:
        if min(counts.get(one, 0), counts.get(other, 0)) > most:
            continue
        if counts.get(one, 0) > counts.get(other, 0):
            weight[other] = weight[one] - offset
        else:
            weight[one] = weight[other] + offset
        changed += 1
    return changed
