"""The memory is a value: it enters with the cache, leaves with it, and must fit."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from deltamem_agents.adapter import (
    DeltaMemConfig,
    MemoryCache,
    MemoryCall,
    WriteRecord,
    attach,
)
from deltamem_agents.adapter.flight import FLIGHT
from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ConfigError, StateError, UnsupportedModelError

SHAPE = (3, 2, 4, 4)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_what_goes_in_comes_out(model):
    memory = random(2, *SHAPE)
    assert torch.equal(MemoryCache(model, memory).memory, memory)
    rows = [memory[0].numpy(), memory[1]]
    assert torch.equal(MemoryCache(model, rows).memory, memory)
    assert torch.equal(MemoryCache(model).memory, torch.zeros(1, *SHAPE))
    cache = MemoryCache(model)
    cache.memory = memory
    assert torch.equal(cache.memory, memory)


def test_memory_states_enter_as_they_are(model, tokens):
    arrays = [random(*SHAPE, seed=i).numpy() for i in range(2)]
    states = [
        MemoryState(state=a, boundary_state=np.zeros_like(a), ledger=Ledger("", 0, (), ""),
                    tokens_written=0, fingerprint="00" * 32)
        for a in arrays
    ]  # fmt: skip
    cache = MemoryCache(model, states)
    assert np.array_equal(cache.memory.numpy(), np.stack(arrays))
    with torch.no_grad():
        model(tokens(2, 4), past_key_values=cache)
    assert not np.array_equal(cache.memory.numpy(), np.stack(arrays))
    assert np.array_equal(states[0].state, arrays[0])  # the value itself did not move


@pytest.mark.parametrize(
    "memory",
    [
        random(*SHAPE), random(1, 2, 2, 4, 4), random(1, 3, 1, 4, 4), random(1, 3, 2, 4, 8),
        random(1, *SHAPE).double(), random(1, *SHAPE).bfloat16(),
        random(1, *SHAPE).fill_(float("nan")), [random(2, 2, 4, 4)], [random(3, 2, 8, 8).numpy()],
        [random(*SHAPE).double().numpy()], [],
    ],
    ids=["no batch", "layers", "heads", "rank", "double", "bfloat16", "NaN", "row", "row's rank",
         "row's dtype", "no rows"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(model, memory):
    with pytest.raises(StateError):
        MemoryCache(model, memory)
    cache = MemoryCache(model, random(1, *SHAPE))
    if isinstance(memory, torch.Tensor):
        with pytest.raises(StateError):
            cache.memory = memory
        assert torch.equal(cache.memory, random(1, *SHAPE))  # the old one is still in place


@pytest.mark.parametrize("batch", [1, 3, 4, 6])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("equal", [False, True])
@torch.no_grad()
def test_a_batch_that_does_not_match_is_refused(model, tokens, batch, length, equal):
    """Also where its rows are equal, so that it looks like beams: only `generate` makes those."""
    memory = random(2, *SHAPE)
    cache = MemoryCache(model, memory)
    ids = tokens(1, length).expand(batch, -1) if equal else tokens(batch, length)
    with pytest.raises(StateError, match="batch"):
        model(ids, past_key_values=cache)
    assert torch.equal(cache.memory, memory)
    assert cache.get_seq_length() == 0


def test_a_memory_needs_an_adapter(backbone):
    with pytest.raises(UnsupportedModelError, match="attach"):
        MemoryCache(backbone())


def test_the_keyword_takes_a_memory_call(model, tokens):
    with pytest.raises(ConfigError, match="MemoryCall"):
        model(tokens(1, 4), delta_mem=True)


def test_a_cache_of_another_adapter_is_refused(build, tokens):
    model = build()
    cache = MemoryCache(model)
    attach(model, DeltaMemConfig(rank=2), name="second")
    with pytest.raises(StateError, match="active adapter"):
        model(tokens(1, 4), past_key_values=cache)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_chunk_over_a_cache_writes_and_corrects(build, tokens, attention):
    """With a boolean mask read as additive, such a chunk would do neither."""
    model, ids = build(), tokens(2, 24)
    model.set_attn_implementation(attention)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    whole, parts, got = MemoryCache(model), MemoryCache(model), []
    expected = model(ids, attention_mask=mask, position_ids=positions, past_key_values=whole).logits
    for a, b in ((0, 10), (10, 24)):
        before = parts.memory
        out = model(
            ids[:, a:b], attention_mask=mask[:, :b], position_ids=positions[:, a:b],
            past_key_values=parts,
        )  # fmt: skip
        got.append(out.logits)
        assert float((parts.memory - before).abs().amax((1, 2, 3, 4)).min()) > 1e-3
    assert torch.allclose(torch.cat(got, 1)[mask.bool()], expected[mask.bool()], atol=1e-4)
    assert torch.allclose(parts.memory, whole.memory, atol=1e-5)
    four = torch.where(
        torch.tril(torch.ones(24, 24)).bool() & mask.bool()[:, None, None], 0.0, -1e9
    )
    given = MemoryCache(model)  # the same mask, additive and in four dimensions
    model(ids, attention_mask=four, position_ids=positions, past_key_values=given)
    assert torch.allclose(given.memory, whole.memory, atol=1e-5)


@torch.no_grad()
def test_nothing_is_kept_on_modules(build, tokens):
    model = build()
    tensors = {n: (t.data_ptr(), t._version) for n, t in model.state_dict().items()}
    first = model(tokens(1, 9)).logits
    cache = MemoryCache(model)
    model(tokens(1, 5, seed=1), past_key_values=cache)
    model(tokens(1, 1, seed=2), past_key_values=cache)
    assert torch.equal(model(tokens(1, 9)).logits, first)
    assert {n: (t.data_ptr(), t._version) for n, t in model.state_dict().items()} == tensors


def test_the_graph_ends_with_the_call(build, tokens):
    model = build().train()
    cache = MemoryCache(model, keep_kv=False)
    out = model(tokens(1, 6), past_key_values=cache)
    watch = weakref.ref(cache._store)
    assert FLIGHT.call is None
    assert FLIGHT.corrections is None
    del out, cache
    gc.collect()
    assert watch() is None


@torch.no_grad()
def test_hidden_states_may_come_as_embeddings_or_positionally(model, tokens):
    ids = tokens(2, 6)
    expected = model(ids).logits
    assert torch.equal(model(input_ids=ids).logits, expected)
    embeds = model.get_input_embeddings()(ids)
    assert torch.allclose(model(inputs_embeds=embeds).logits, expected, atol=1e-6)
    inner = model.model(ids, past_key_values=DynamicCache(config=model.config))
    assert torch.allclose(model.lm_head(inner.last_hidden_state), expected, atol=1e-6)
    cache = MemoryCache(model)
    model.model(ids, past_key_values=cache, delta_mem=MemoryCall(record=True))
    assert len(cache.records) == 3
    assert all(isinstance(record, WriteRecord) for record in cache.records)


@torch.no_grad()
def test_arguments_of_the_decoder_may_come_without_names(model, tokens):
    decoder, ids = model.model, tokens(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    named, first, second = (MemoryCache(model) for _ in range(3))
    decoder(input_ids=ids, attention_mask=mask, past_key_values=named)
    decoder(ids, mask, past_key_values=first)
    decoder(ids, mask, None, second)
    assert torch.equal(first.memory, named.memory)
    assert torch.equal(second.memory, named.memory)
    with pytest.raises(TypeError, match="multiple values"):
        decoder(ids, input_ids=ids)
    with pytest.raises(ConfigError, match="input_ids"):
        decoder(attention_mask=mask)


@pytest.mark.long
@torch.no_grad()
def test_a_compiled_model_computes_the_same(build, tokens):
    """Graph breaks are allowed; wrong numbers are not."""
    model, ids = build(), tokens(1, 8)
    plain, compiled = MemoryCache(model), MemoryCache(model)
    expected = model(ids, past_key_values=plain).logits
    run = torch.compile(model, backend="eager")
    assert torch.allclose(run(ids, past_key_values=compiled).logits, expected, atol=1e-5)
    assert torch.allclose(compiled.memory, plain.memory, atol=1e-6)
