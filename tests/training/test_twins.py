"""Words with and without a space before them share a vector, but for one offset."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.twins import share_twins, twins


def test_the_rarer_twin_takes_the_vector_of_the_other() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(7, 5)
    before = table.weight.detach().clone()
    counts = Counter({0: 9, 1: 3, 2: 1, 3: 8, 4: 30, 5: 40})
    assert share_twins(table, [(0, 1), (2, 3), (4, 5)], counts, most=20, length=2.0) == 2
    bare, spaced = before[[0, 2, 4]], before[[1, 3, 5]]
    offset = nn.functional.normalize((bare - spaced).mean(0), dim=0) * 2.0
    after = table.weight.detach()
    torch.testing.assert_close(after[1], before[0] - offset)
    torch.testing.assert_close(after[2], before[3] + offset)
    for kept in (0, 3, 4, 5, 6):
        assert torch.equal(after[kept], before[kept])


@pytest.mark.parametrize("word", ["Paris", "Frankly", "tell", "48"])
def test_words_and_numbers_have_twins(word: str) -> None:
    tokenizer = build_tokenizer(0, conversations=300)
    found = dict(twins(tokenizer))
    [bare] = tokenizer(word, add_special_tokens=False).input_ids
    [spaced] = tokenizer(f" {word}", add_special_tokens=False).input_ids
    assert found[bare] == spaced
    assert not any(tokenizer.decode(one).strip() == "<|im_end|>" for one in found)
    assert len(found) > 900
