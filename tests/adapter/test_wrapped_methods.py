"""Our methods in place of a model's, among those that wrap, copy or hand on the same methods."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from transformers import GenerationMixin

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache, MemoryCall, attach, detach
from deltamem_agents.errors import StateError, UnsupportedModelError
from tests.adapter.conftest import make_backbone, make_model, make_tokens, stir


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def _other_precision():
    """Accelerate keeps one precision for a process; other tests have theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_other_precision")
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


class Outer(nn.Module, GenerationMixin):
    """A model that leaves all to one inside it, as those do that also read pictures."""

    def __init__(self):
        super().__init__()
        self.language_model = make_backbone()
        self.config = self.language_model.config

    def forward(self, *args, **kwargs):
        return self.language_model(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.language_model.generate(*args, **kwargs)


CONFIG = DeltaMemConfig(rank=4, heads=2, init="random")


def attached_from_within():
    model = make_backbone()
    seed = torch.get_rng_state()
    attach(model.model, CONFIG, name="first")
    torch.set_rng_state(seed)
    return attach(model, CONFIG)


@pytest.mark.parametrize("make", [lambda: attach(Outer(), CONFIG), attached_from_within])
def test_whoever_generates_knows_of_beams_and_of_ended_rows(make):
    model, expected = stir(make()).eval(), make_model()
    ids, options = make_tokens(2, 6), {"do_sample": False, "max_new_tokens": 10, "pad_token_id": 0}
    free = expected.generate(ids, eos_token_id=None, **options)[:, 6:]
    end = next(t for t in free[0, :6].tolist() if t not in free[1])
    caches = MemoryCache(model), MemoryCache(expected)
    one, two = (
        m.generate(ids, past_key_values=cache, eos_token_id=end, **options)
        for m, cache in zip((model, expected), caches, strict=True)
    )
    assert torch.equal(one, two)
    assert torch.equal(caches[0].memory, caches[1].memory)
    memory = caches[1].memory[:1]
    beams = [
        m.generate(ids[:1], past_key_values=MemoryCache(m, memory), num_beams=2, **options)
        for m in (model, expected)
    ]
    assert torch.equal(*beams)


def test_a_call_reaches_the_memory_through_a_model_around_a_model():
    outer = attach(Outer(), CONFIG)
    attach(outer.language_model, CONFIG, name="second")
    cache = MemoryCache(outer)
    outer(make_tokens(1, 5), past_key_values=cache, delta_mem=MemoryCall(write=False))
    assert float(cache.memory.abs().max()) == 0


def test_copies_for_data_parallel_are_refused():
    model = make_model()
    with pytest.raises(UnsupportedModelError, match="DataParallel"):
        model.model._replicate_for_data_parallel()  # nn.DataParallel does so with each module
    detach(model)
    assert len(model.model._replicate_for_data_parallel()._parameters) == 0


def test_a_shallow_copy_runs_while_its_model_is_there():
    model, ids = make_model(), make_tokens(1, 5)
    copied, expected = copy.copy(model), model(ids).logits
    assert torch.equal(copied(ids).logits, expected)
    del model
    with pytest.raises(StateError, match="deepcopy"):
        copied(ids)
