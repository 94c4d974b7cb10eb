"""Our methods in place of a model's, among those that wrap, copy or hand on the same methods."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator

from deltamem_agents.adapter import MemoryCache, MemoryCall, detach
from tests.adapter.conftest import make_model, make_tokens


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_a_model_prepared_for_mixed_precision():
    """Its forward is wrapped as a function, and bound again: to the model, or to a copy of it."""
    model, ids = make_model(), make_tokens(2, 8)
    plain = model(ids).logits
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    prepared = accelerator.prepare(model)
    expected, memory = prepared(ids).logits, MemoryCache(prepared)
    prepared(ids, past_key_values=memory, delta_mem=MemoryCall(write=False))
    assert float(memory.memory.abs().max()) == 0
    copied = copy.deepcopy(prepared)
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert float(copied(ids).logits.abs().max()) == 0
    assert torch.equal(prepared(ids).logits, expected)
    options = {"max_new_tokens": 2, "do_sample": False}
    assert torch.equal(
        prepared.generate(ids, **options),
        accelerator.unwrap_model(prepared).generate(ids, **options),
    )
    bare = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert torch.equal(bare(ids).logits, plain)
    cache = MemoryCache(bare)
    bare(ids, past_key_values=cache, delta_mem=MemoryCall(write=False))
    assert float(cache.memory.abs().max()) == 0
    detach(bare)
    assert float((bare(ids).logits - plain).abs().max()) > 1e-2
