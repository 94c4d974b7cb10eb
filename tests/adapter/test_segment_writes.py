"""Writes by message or sentence: boundaries are known or it is an error; chunks change nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from deltamem_agents.adapter import MemoryCache, MemoryCall, close_segments
from deltamem_agents.core.step import unpack
from deltamem_agents.errors import BoundaryError, StateError


@pytest.fixture
def by_message(build):
    return build(write="message")


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def gap(one, two):
    assert one.shape == two.shape
    return float((one - two).abs().max())


IDS = torch.tensor([[-1, 0, 0, 0, 1, 1, 1, 1, 1, -1, 2, 2], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])


def test_missing_boundaries_are_an_error(by_message, tokens):
    cache = MemoryCache(by_message)
    for call in (MemoryCall(), MemoryCall(write=torch.ones(2, 12, dtype=torch.bool))):
        with pytest.raises(BoundaryError, match="told the segment"):
            by_message(tokens(2, 12), past_key_values=cache, delta_mem=call)
    with pytest.raises(BoundaryError, match="shape"):
        by_message(
            tokens(2, 12), past_key_values=cache, delta_mem=MemoryCall(segment_ids=IDS[:, 1:])
        )
    with pytest.raises(BoundaryError):
        by_message(tokens(1, 4))
    with pytest.raises(BoundaryError):
        by_message.generate(tokens(1, 4), max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert cache.get_seq_length() == 0  # nothing was read before the error
    assert float(cache.memory.abs().max()) == 0


def test_one_write_a_message_not_one_a_token(by_message, tokens):
    cache = MemoryCache(by_message)
    call = MemoryCall(segment_ids=IDS, record=True)
    by_message(tokens(2, 12), past_key_values=cache, delta_mem=call)
    assert len(cache.records) == 3
    for record in cache.records:
        assert record.beta.shape[1] == 3
        assert record.written.tolist() == [[True, True, True], [True, True, False]]


def test_tokens_of_no_message_and_padding_never_write(by_message, tokens):
    ids, mask = tokens(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, 10:] = 0
    padded = MemoryCache(by_message)
    by_message(
        ids, attention_mask=mask, past_key_values=padded, delta_mem=MemoryCall(segment_ids=IDS)
    )
    alone = MemoryCache(by_message)
    call = MemoryCall(segment_ids=IDS[:1, :10])
    by_message(ids[:1, :10], past_key_values=alone, delta_mem=call)
    assert gap(padded.memory[:1], alone.memory) < 1e-6
    nothing = MemoryCache(by_message)
    none = torch.full((2, 12), -1)
    by_message(ids, past_key_values=nothing, delta_mem=MemoryCall(segment_ids=none))
    assert float(nothing.memory.abs().max()) == 0
    off = MemoryCache(by_message)
    write = IDS != 1
    call = MemoryCall(segment_ids=IDS, write=write)
    by_message(ids, past_key_values=off, delta_mem=call)
    same = MemoryCache(by_message)
    kept = IDS.masked_fill(~write, -1)
    by_message(ids, past_key_values=same, delta_mem=MemoryCall(segment_ids=kept))
    assert torch.equal(off.memory, same.memory)


@pytest.mark.parametrize("sizes", [(12,), (5, 7), (1, 1, 3, 7), (1,) * 12])
def test_chunks_of_a_call_change_nothing(by_message, tokens, sizes):
    ids, start = tokens(2, 12), torch.randn(2, 3, 2, 4, 4)
    whole = MemoryCache(by_message, start)
    call = MemoryCall(segment_ids=IDS)
    expected = by_message(ids, past_key_values=whole, delta_mem=call).logits
    parts, got, at = MemoryCache(by_message, start), [], 0
    for size in sizes:
        span = slice(at, at + size)
        call = MemoryCall(segment_ids=IDS[:, span], closes=at + size == 12)
        got.append(by_message(ids[:, span], past_key_values=parts, delta_mem=call).logits)
        at += size
    assert gap(torch.cat(got, 1), expected) < 1e-4
    assert gap(parts.memory, whole.memory) < 1e-6
    assert not parts.has_open_segments


def test_an_open_message_is_written_when_it_is_closed(by_message, tokens):
    ids = tokens(1, 10)
    cache = MemoryCache(by_message, call=MemoryCall(segment_ids=0, closes=False))
    said = by_message.generate(
        ids, past_key_values=cache, max_new_tokens=4, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    assert cache.has_open_segments
    assert float(cache.memory.abs().max()) == 0
    close_segments(by_message, cache)
    assert not cache.has_open_segments
    other = MemoryCache(by_message)
    call = MemoryCall(segment_ids=0)
    by_message(said[:, :-1], past_key_values=other, delta_mem=call)
    assert float(other.memory.abs().max()) > 1e-3
    assert gap(cache.memory, other.memory) < 1e-6


def test_an_open_message_can_be_dropped_or_taken_back(by_message, tokens):
    ids, call = tokens(1, 10), MemoryCall(segment_ids=0, closes=False)
    cache, other = MemoryCache(by_message), MemoryCache(by_message)
    for i in range(10):
        by_message(ids[:, i : i + 1], past_key_values=cache, delta_mem=call)
    cache.crop(-4)
    close_segments(by_message, cache)
    by_message(ids[:, :6], past_key_values=other, delta_mem=MemoryCall(segment_ids=0))
    assert gap(cache.memory, other.memory) < 1e-6
    by_message(ids, past_key_values=cache, delta_mem=call)
    cache.discard_segments()
    close_segments(by_message, cache)
    assert gap(cache.memory, other.memory) < 1e-6


@pytest.mark.parametrize(("length", "taken"), [(12, 12), (12, 5), (150, 64)])
def test_a_written_message_can_be_taken_back(by_message, tokens, length, taken):
    ids = tokens(1, length)
    cache, other = MemoryCache(by_message), MemoryCache(by_message)
    by_message(ids, past_key_values=cache, delta_mem=MemoryCall(segment_ids=0))
    cache.crop(-taken)
    if taken < min(length, 64):  # a part of the tail: the segment ends where it is cut
        by_message(ids[:, :-taken], past_key_values=other, delta_mem=MemoryCall(segment_ids=0))
        assert gap(cache.memory, other.memory) < 1e-6
        return
    assert float(cache.memory.abs().max()) == 0
    if length > taken:  # it is open again, and can go on
        again = MemoryCall(segment_ids=0)
        by_message(ids[:, -taken:], past_key_values=cache, delta_mem=again)
        by_message(ids, past_key_values=other, delta_mem=again)
        assert gap(cache.memory, other.memory) < 1e-5


def test_sentences_write_as_messages_do(build, tokens, by_message):
    by_sentence, ids = build(write="sentence"), tokens(2, 12)
    caches = []
    for model in (by_sentence, by_message):
        cache = MemoryCache(model)
        model(ids, past_key_values=cache, delta_mem=MemoryCall(segment_ids=IDS))
        caches.append(cache)
    assert torch.equal(caches[0].memory, caches[1].memory)
    assert float(caches[0].memory.abs().max()) > 1e-3


def test_the_mean_is_what_is_written(by_message, tokens):
    """Against the definition, for the first layer, whose input is the normalised embedding."""
    ids = tokens(2, 12)
    cache = MemoryCache(by_message)
    by_message(ids, past_key_values=cache, delta_mem=MemoryCall(segment_ids=IDS))
    layer = by_message.model.layers[0]
    hidden = layer.input_layernorm(by_message.get_input_embeddings()(ids))
    memory = layer.self_attn.delta_mem["default"]
    for row in range(2):
        state = torch.zeros(2, 4, 4)
        for message in range(3):
            chosen = hidden[row][IDS[row] == message]
            if len(chosen):
                mean = chosen.mean(0)
                packed = memory.project(mean[None, None])
                _, k, v, keep, _, beta = (x[0, 0] for x in unpack(packed, memory.rule))
                predicted = torch.einsum("hij,hj->hi", state, k)
                change = beta * (v - predicted)
                state = keep[..., None] * state + change[..., None] * k[:, None, :]
        assert gap(cache.memory[row, 0], state) < 1e-6


def test_read_only_needs_no_boundaries(by_message, tokens):
    start = torch.randn(1, 3, 2, 4, 4)
    cache = MemoryCache(by_message, start, call=MemoryCall(write=False))
    by_message.generate(
        tokens(1, 5), past_key_values=cache, max_new_tokens=3, do_sample=False, pad_token_id=0
    )
    assert torch.equal(cache.memory, start)


def test_segment_ids_mean_nothing_to_token_writes(build, tokens):
    model = build()
    one, two = MemoryCache(model), MemoryCache(model)
    model(tokens(2, 12), past_key_values=one, delta_mem=MemoryCall(segment_ids=IDS))
    model(tokens(2, 12), past_key_values=two)
    assert torch.equal(one.memory, two.memory)


def test_masks_of_the_wrong_shape_are_refused(build, tokens):
    model = build()
    for call in (
        MemoryCall(write=torch.ones(1, 12, dtype=torch.bool)),
        MemoryCall(token_mask=torch.ones(2, 11, dtype=torch.bool)),
    ):
        with pytest.raises(StateError, match="shape"):
            model(tokens(2, 12), past_key_values=DynamicCache(), delta_mem=call)
