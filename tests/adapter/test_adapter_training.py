"""Training: gradients cross blocks through the memory, in float32 and under autocast."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from deltamem_agents.adapter import (
    DeltaMemConfig,
    MemoryCache,
    MemoryCall,
    adapter_parameters,
    attach,
)


def tiny(**changes) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 12,
        "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 97,
        "max_position_embeddings": 128,
    }  # fmt: skip
    return Qwen3ForCausalLM(Qwen3Config(**shape | changes))


def trained(**config) -> Qwen3ForCausalLM:
    """A model whose adapter has an effect."""
    model = attach(tiny(), DeltaMemConfig(**{"rank": 4, "heads": 2, "init": "random"} | config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model):
            if name.endswith(("beta_proj", "lambda_proj")) or ".delta_" in name:
                parameter.normal_(std=0.3, generator=generator)
    return model.train()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, shape, generator=torch.Generator().manual_seed(seed))


def run_blocks(model, blocks, **cache_options):
    """Blocks of turns with fresh keys and values, the memory carried through the graph."""
    memory, penalty = None, 0.0
    for ids in blocks:
        cache = MemoryCache(model, memory=memory, **cache_options)
        call = MemoryCall(write=ids % 5 > 0, record=True)
        out = model(input_ids=ids, past_key_values=cache, delta_mem=call)
        memory = cache.memory
        penalty = penalty + sum(r.beta.mean() for r in cache.records)
    return out.logits, memory, penalty


def test_only_the_adapter_trains_and_every_parameter_gets_a_gradient():
    model = trained(update="no_lambda")
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names
    assert all("delta_mem.default." in n for n in names)
    assert all(p.dtype == torch.float32 for _, p in adapter_parameters(model))
    logits, _, penalty = run_blocks(model, [tokens(2, 9, seed=i) for i in range(3)])
    (logits.logsumexp(-1).sum() + penalty).backward()
    gradients = {n: p.grad for n, p in adapter_parameters(model)}
    assert all(g is not None and float(g.abs().sum()) > 0 for g in gradients.values())


def test_the_gradient_reaches_the_first_block_through_the_memory():
    model = trained()
    first = torch.randn(1, 9, 48, generator=torch.Generator().manual_seed(5), requires_grad=True)
    cache = MemoryCache(model, keep_kv=False)
    model(inputs_embeds=first, past_key_values=cache)
    logits, _, _ = run_blocks_from(model, cache.memory)
    logits.square().sum().backward()
    assert float(first.grad.abs().sum()) > 0
    numeric_check(model, first.detach())


def run_blocks_from(model, memory):
    cache = MemoryCache(model, memory=memory, keep_kv=False)
    out = model(input_ids=tokens(1, 5, seed=7), past_key_values=cache)
    return out.logits, cache.memory, None


def numeric_check(model, embeds):
    """The gradient of the loss after two blocks agrees with finite differences."""

    def loss(x):
        cache = MemoryCache(model, keep_kv=False)
        model(inputs_embeds=x, past_key_values=cache)
        return run_blocks_from(model, cache.memory)[0].square().mean()

    x = embeds.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    step = 3e-3
    with torch.no_grad():
        numeric = (loss(embeds + step * direction) - loss(embeds - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=2e-2)


def test_without_kv_equals_fresh_kv():
    model = trained()
    blocks = [tokens(2, 9, seed=i) for i in range(3)]
    with torch.no_grad():
        one = run_blocks(model, blocks)
        two = run_blocks(model, blocks, keep_kv=False)
    assert torch.allclose(one[0], two[0], atol=1e-5)
    assert torch.allclose(one[1], two[1], atol=1e-6)
    cache = MemoryCache(model, keep_kv=False)
    model(blocks[0], past_key_values=cache)
    assert cache.get_seq_length() == 0


def test_autocast_leaves_gates_state_and_scan_in_float32():
    model = trained()
    ids = tokens(2, 40)
    with torch.no_grad():
        exact = MemoryCache(model)
        model(ids, past_key_values=exact, delta_mem=MemoryCall(record=True))
        mixed = MemoryCache(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(ids, past_key_values=mixed, delta_mem=MemoryCall(record=True))
    assert mixed.memory.dtype == torch.float32
    assert all(r.beta.dtype == torch.float32 for r in mixed.records)
    # The first layer's input is the embedding: its norm is exact but for autocast's rounding of
    # nothing, so that only a bfloat16 gate or state could make a difference here.
    assert torch.equal(mixed.memory[:, 0], exact.memory[:, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _, penalty = run_blocks(model, [ids, ids])
        (logits.float().logsumexp(-1).mean() + penalty).backward()
    assert all(torch.isfinite(p.grad).all() for _, p in adapter_parameters(model))


def test_records_hold_the_gates_with_their_gradient():
    model = trained(layers=[0, 2])
    cache = MemoryCache(model)
    ids, mask = tokens(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    write = torch.ones(2, 7, dtype=torch.bool)
    write[0, :3] = False
    call = MemoryCall(write=write, record=True)
    model(ids, attention_mask=mask, past_key_values=cache, delta_mem=call)
    assert [r.layer for r in cache.records] == [0, 2]
    record = cache.records[0]
    assert record.beta.shape == (2, 7, 2, 4)
    assert torch.equal(record.written, write & mask.bool())
    assert torch.allclose(record.keep, 1 - record.beta)
    record.beta.sum().backward()
    parameters = dict(adapter_parameters(model))
    assert float(parameters["model.layers.0.self_attn.beta_bias"].grad.abs().sum()) > 0
    model(ids, past_key_values=cache, delta_mem=MemoryCall())
    assert len(cache.records) == 2  # of the last call that asked for them
    model(ids, past_key_values=cache, delta_mem=MemoryCall(record=True))
    assert len(cache.records) == 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_writes_on_either_side(side):
    model = trained().eval()
    ids = tokens(1, 12)
    pad = torch.zeros(1, 5, dtype=torch.long)
    padded = torch.cat([pad, ids] if side == "left" else [ids, pad], 1)
    mask = (padded > 0).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        alone, batch = MemoryCache(model), MemoryCache(model)
        expected = model(ids, past_key_values=alone).logits
        got = model(
            padded, attention_mask=mask, position_ids=positions, past_key_values=batch
        ).logits
    assert torch.allclose(got[mask.bool()], expected[0], atol=1e-5)
    assert torch.allclose(batch.memory, alone.memory, atol=1e-6)


def test_a_token_that_does_not_write_still_reads():
    model = trained().eval()
    start = torch.randn(1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    ids = tokens(1, 8)
    with torch.no_grad():
        off, mask = MemoryCache(model, memory=start), MemoryCache(model, memory=start)
        one = model(ids, past_key_values=off, delta_mem=MemoryCall(write=False)).logits
        none = torch.zeros(1, 8, dtype=torch.bool)
        two = model(ids, past_key_values=mask, delta_mem=MemoryCall(write=none)).logits
        empty = model(ids, past_key_values=MemoryCache(model), delta_mem=MemoryCall(write=False))
    assert torch.allclose(one, two, atol=1e-6)
    assert torch.equal(off.memory, start)
    assert torch.equal(mask.memory, start)
    assert float((one - empty.logits).abs().max()) > 1e-2
