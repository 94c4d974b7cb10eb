"""A cache goes with one adapter, which has read every token in it; anything else is refused."""

from __future__ import annotations

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch
from transformers import DynamicCache, StaticCache

from deltamem_agents.adapter import (
    DeltaMemConfig,
    MemoryCache,
    MemoryCall,
    attach,
    close_segments,
    detach,
)
from deltamem_agents.adapter.model import layers_of
from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import StateError

WINDOWS = {
    "use_sliding_window": True, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
CACHES = {
    "ours": MemoryCache,
    "plain": lambda model: DynamicCache(config=model.config),
    "static": lambda model: StaticCache(config=model.config, max_cache_len=40),
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@contextlib.contextmanager
def switched_off(model):
    for layer in layers_of(model):
        layer.enable_adapters(False)
    yield
    for layer in layers_of(model):
        layer.enable_adapters(True)


@pytest.fixture(params=["full", "windows"])
def any_model(request, backbone, stirred):
    changes = WINDOWS if request.param == "windows" else {}
    config = DeltaMemConfig(rank=4, heads=2, init="random")
    return stirred(attach(backbone(**changes), config)).eval()


@pytest.mark.parametrize("kind", CACHES)
def test_tokens_read_with_the_adapter_off_are_a_gap(any_model, tokens, kind):
    cache, ids = CACHES[kind](any_model), tokens(1, 20)
    for part in ids[:, :12].split(5, 1):
        any_model(part, past_key_values=cache)
    memory = cache.memory
    with switched_off(any_model):
        any_model(ids[:, 12:15], past_key_values=cache)
    for use in (lambda: any_model(ids[:, 15:], past_key_values=cache), lambda: cache.crop(-2)):
        with pytest.raises(StateError, match="every token of its cache, 12; got 15"):
            use()
    assert torch.equal(cache.memory, memory)
    assert cache.get_seq_length() == 15
    cache.drop_kv()
    any_model(ids[:, 15:], past_key_values=cache)
    assert not torch.equal(cache.memory, memory)


def test_a_gap_can_be_taken_away(model, tokens):
    ids, cache, twin = tokens(1, 16), MemoryCache(model), MemoryCache(model)
    model(ids[:, :10], past_key_values=cache)
    with switched_off(model):
        model(tokens(1, 3, seed=4), past_key_values=cache)
    cache.crop_kv(3)
    rest = model(ids[:, 10:], past_key_values=cache).logits
    assert torch.allclose(rest, model(ids, past_key_values=twin).logits[:, 10:], atol=1e-4)
    assert torch.allclose(cache.memory, twin.memory, atol=1e-5)


def test_a_cache_filled_while_the_adapter_was_off(model, tokens):
    cache = MemoryCache(model)
    with switched_off(model):
        model(tokens(1, 4), past_key_values=cache)
    with pytest.raises(StateError, match="every token"):
        model(tokens(1, 4), past_key_values=cache)


def test_a_memory_that_is_assigned_belongs_to_the_tokens_there(model, tokens):
    ids, whole = tokens(1, 12), MemoryCache(model)
    expected = model(ids, past_key_values=whole).logits[:, 8:]
    first, cache = MemoryCache(model), MemoryCache(model)
    model(ids[:, :8], past_key_values=first)
    cache.layers = first.layers
    cache.memory = first.memory
    assert torch.allclose(model(ids[:, 8:], past_key_values=cache).logits, expected, atol=1e-4)
    cache.crop(-2)
    model(ids[:, 10:], past_key_values=cache)
    assert torch.allclose(cache.memory, whole.memory, atol=1e-5)


def test_without_keys_and_values_there_is_nothing_to_count(model, tokens):
    cache = MemoryCache(model, keep_kv=False)
    model(tokens(1, 4), past_key_values=cache)
    with switched_off(model):
        model(tokens(1, 4), past_key_values=cache)
    model(tokens(1, 4), past_key_values=cache)


def test_a_crop_that_the_keys_refuse_leaves_the_memory(backbone, stirred, tokens):
    config = DeltaMemConfig(rank=4, heads=2, init="random")
    model = stirred(attach(backbone(**WINDOWS), config)).eval()
    cache = MemoryCache(model)
    model(tokens(1, 12), past_key_values=cache)
    memory = cache.memory
    with pytest.raises(RuntimeError, match="does not track past"):
        cache.crop(-2)  # of a window that has slid
    assert torch.equal(cache.memory, memory)
    model(tokens(1, 2), past_key_values=cache)


def test_adapters_of_equal_shape_do_not_share_a_cache(build, stirred, tokens):
    model = build()
    cache = MemoryCache(model)
    model(tokens(1, 6), past_key_values=cache)
    memory = cache.memory
    attach(model, DeltaMemConfig(rank=4, heads=2, init="random"), name="second")
    with pytest.raises(StateError, match="active adapter"):
        model(tokens(1, 3), past_key_values=cache)
    with pytest.raises(StateError, match="active adapter"):
        close_segments(model, cache)
    assert torch.equal(cache.memory, memory)
    for layer in layers_of(model):
        layer.set_adapter(["default"])
    model(tokens(1, 3), past_key_values=cache)
    detach(model)


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("length", [1, 9])
def test_a_cache_goes_to_another_process_without_its_history(any_model, tokens, kind, length):
    cache, ids = CACHES[kind](any_model), tokens(1, 20)
    any_model(ids[:, :length], past_key_values=cache)
    there = pickle.loads(pickle.dumps(cache))
    assert type(there) is type(cache)
    with pytest.raises(StateError, match="taken back"):
        there.crop(-1)
    rest = [any_model(ids[:, length:], past_key_values=each).logits for each in (cache, there)]
    assert torch.equal(*rest)
    assert torch.equal(cache.memory, there.memory)


def test_a_copy_here_keeps_its_history(build, tokens):
    model = build(write="message")
    cache, ids = DynamicCache(config=model.config), tokens(1, 9)
    model(ids, past_key_values=cache, delta_mem=MemoryCall(segment_ids=0))
    twin = copy.deepcopy(cache)
    for each in (cache, twin):
        each.crop(-4)
    assert torch.equal(cache.memory, twin.memory)
    assert twin.get_seq_length() == 5


def test_states_of_several_adapters_are_no_batch(model):
    zeros = np.zeros(MemoryCache(model).memory.shape[1:], dtype=np.float32)
    one, other = (MemoryState(zeros, zeros, Ledger(), 0, mark * 64) for mark in "ab")
    assert len(MemoryCache(model, [one, one, zeros]).memory) == 3
    with pytest.raises(StateError, match="one adapter"):
        MemoryCache(model, [one, other])


def test_segments_left_open_are_closed_in_step(build, tokens):
    model = build(write="message")
    cache = MemoryCache(model)
    call = MemoryCall(segment_ids=0, closes=False)
    model(tokens(1, 6), past_key_values=cache, delta_mem=call)
    close_segments(model, cache)
    memory = cache.memory
    model(tokens(1, 2), past_key_values=cache, delta_mem=MemoryCall(write=False))
    assert torch.equal(cache.memory, memory)
