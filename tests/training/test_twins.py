"""Words with and without a space before them share a vector, but for one offset."""

from __future__ import annotations

import pytest
import torch

from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.twins import begin_twins, hold_twins, twins

PAIRS = torch.tensor([[0, 1], [2, 3], [4, 6]])


def test_a_bare_word_begins_as_the_spaced_one_and_an_offset() -> None:
    torch.manual_seed(0)
    table = torch.randn(8, 5)
    before = table.clone()
    begin_twins(table, PAIRS, length=2.0)
    offsets = table[PAIRS[:, 0]] - table[PAIRS[:, 1]]
    torch.testing.assert_close(offsets, offsets[:1].expand(3, 5))
    torch.testing.assert_close(offsets[0].norm(), torch.tensor(2.0))
    kept = [1, 3, 5, 6, 7]
    assert torch.equal(table[kept], before[kept])


def test_holding_is_the_nearest_table_with_one_offset() -> None:
    """A projection: once more changes nothing, and what it takes away is orthogonal to the rest."""
    torch.manual_seed(0)
    table, other = torch.randn(8, 5), torch.randn(8, 5)
    before = table.clone()
    for one in (table, other):
        hold_twins(one, PAIRS)
    held = table.clone()
    hold_twins(table, PAIRS)
    torch.testing.assert_close(table, held)
    offsets = held[PAIRS[:, 0]] - held[PAIRS[:, 1]]
    torch.testing.assert_close(offsets, offsets[:1].expand(3, 5))
    torch.testing.assert_close(((before - held) * other).sum(), torch.tensor(0.0))
    assert torch.equal(held[[5, 7]], before[[5, 7]])


@pytest.mark.parametrize("word", ["Paris", "Frankly", "tell", "48"])
def test_words_and_numbers_have_twins(word: str) -> None:
    tokenizer = build_tokenizer(0, conversations=300)
    found = dict(twins(tokenizer).tolist())
    [bare] = tokenizer(word, add_special_tokens=False).input_ids
    [spaced] = tokenizer(f" {word}", add_special_tokens=False).input_ids
    assert found[bare] == spaced
    assert not any(tokenizer.decode(one).strip() == "<|im_end|>" for one in found)
    assert len(found) > 900
