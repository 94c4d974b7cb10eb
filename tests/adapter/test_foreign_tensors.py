"""Tensors that are not ours: views that are not contiguous, outputs that a hook keeps, defaults."""

from __future__ import annotations

import pytest
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache, attach
from deltamem_agents.core.scan import delta_scan
from deltamem_agents.core.step import StepRule, memory_step
from tests.adapter.conftest import make_backbone, make_model, make_tokens, stir


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_strided_hidden_states_are_read_as_they_are(batch: int) -> None:
    """OLMo 2's attention reads the residual stream itself, here a slice of a larger tensor."""
    torch.manual_seed(0)
    config = Olmo2Config(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, vocab_size=97, max_position_embeddings=512, pad_token_id=None,
    )  # fmt: skip
    model = attach(Olmo2ForCausalLM(config).eval(), DeltaMemConfig(rank=4, heads=2, init="random"))
    stir(model)
    whole = torch.randn(batch, 10, 48)
    sliced, copied = MemoryCache(model), MemoryCache(model)
    for t in range(10):
        seen = model(inputs_embeds=whole[:, t : t + 1], past_key_values=sliced).logits
        same = model(inputs_embeds=whole[:, t : t + 1].clone(), past_key_values=copied).logits
        torch.testing.assert_close(seen, same)
    torch.testing.assert_close(sliced.memory, copied.memory)


@torch.no_grad()
def test_an_output_that_a_hook_keeps_is_not_changed() -> None:
    model, kept = make_backbone(), []
    for name in ("q_proj", "o_proj"):
        projection = getattr(model.model.layers[0].self_attn, name)
        projection.register_forward_hook(lambda m, a, out: kept.append((out, out.clone())))
    attach(model, DeltaMemConfig(rank=4, heads=2, init="random"))
    stir(model)
    model.eval()(make_tokens(1, 9))
    assert len(kept) == 2
    assert all(torch.equal(now, then) for now, then in kept)


@torch.no_grad()
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_states_are_float32_whatever_the_default(default: torch.dtype) -> None:
    rule = StepRule(1, 8, 8)
    projected, state = torch.randn(2, rule.width), torch.randn(2, 1, 8, 8)
    inputs = [torch.rand(2, 5, 1, 8) for _ in range(6)]
    step, scan = memory_step(projected, state, rule), delta_scan(*inputs, state)
    torch.set_default_dtype(default)
    try:
        for found, expected in zip(
            (*memory_step(projected, state, rule), *delta_scan(*inputs, state)),
            (*step, *scan),
            strict=True,
        ):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected)
    finally:
        torch.set_default_dtype(torch.float32)


@torch.no_grad()
def test_outside_generate_every_token_is_meant() -> None:
    """Be it the padding id or the end: a batch of sessions feeds what each of them has said."""
    model = make_model()
    model.generation_config.pad_token_id = model.generation_config.eos_token_id = 2
    fed = torch.tensor([[2, 0, 2, 2], [5, 2, 0, 2], [2, 2, 2, 0]])
    together = MemoryCache(model)
    for column in fed.T:
        model(column[:, None], past_key_values=together)
    for row, said in enumerate(fed):
        alone = MemoryCache(model)
        model(said[None], past_key_values=alone)
        torch.testing.assert_close(together.memory[row], alone.memory[0], rtol=0, atol=1e-5)
