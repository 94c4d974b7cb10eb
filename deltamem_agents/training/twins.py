"""One vector for a word, with and without the space before it.

The tokenizer has two tokens for values, numbers and the words of refusals. What is copied often
changes from one to the other: a sentence that a system prompt gives after "say: " begins a reply,
and a value that stood after a space becomes a quoted argument. Trained each by itself, the two
vectors of a word have nothing in common, and each word's change has to be learnt on its own. Held
together, they differ by one offset that is the same for all words, and what is learnt of some words
holds for all.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SPACE = "Ġ"  # how a byte-level vocabulary writes a leading space


def twins(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Ids [N, 2] of every word or number that is a token both without and with a space before."""
    vocabulary = tokenizer.get_vocab()
    found = sorted(
        (number, vocabulary[SPACE + token])
        for token, number in vocabulary.items()
        if re.fullmatch(rf"[^\W{SPACE}_]+", token) and SPACE + token in vocabulary
    )
    return torch.tensor(found, dtype=torch.long).reshape(-1, 2)


@torch.no_grad()
def begin_twins(table: Tensor, pairs: Tensor, *, length: float = 3.0) -> None:
    """Give each bare word the vector of the spaced one, plus an offset.

    Args:
        table: [V, d], changed in place.
        pairs: of ids, [N, 2]; see `twins`.
        length: of the offset. Its direction is that of the twins' mean difference: of a table drawn
            at random, any, but for coordinates that are the same in all rows.
    """
    bare, spaced = table[pairs].unbind(1)
    offset = torch.nn.functional.normalize((bare - spaced).mean(0), dim=0) * length
    table[pairs[:, 0]] = spaced + offset


@torch.no_grad()
def hold_twins(table: Tensor, pairs: Tensor) -> None:
    """Move each pair to the nearest place where all pairs differ by the same offset.

    That is a projection (middles stay, differences become their mean), so the table and its
    gradient are treated alike: what one of two twins learns, both do.

    Args:
        table: [V, d], changed in place.
        pairs: of ids, [N, 2]; see `twins`.
    """
    bare, spaced = table[pairs].unbind(1)
    middle, half = (bare + spaced) / 2, (bare - spaced).mean(0) / 2
    table[pairs[:, 0]], table[pairs[:, 1]] = middle + half, middle - half
