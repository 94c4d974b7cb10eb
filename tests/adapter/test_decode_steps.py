"""The short way of a decode step: layers are prepared together, and stay apart."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache
from deltamem_agents.adapter.decoding import FEW, Decoding
from tests.adapter.conftest import make_backbone, make_model, make_tokens, stir


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def handed_out(monkeypatch):
    """Corrections by the short way: as each layer was given them, and a copy of what they were."""
    seen, real = [], Decoding.read

    def read(self, hidden, context, layer):
        given = real(self, hidden, context, layer)
        if given is not None:
            seen.extend((layer, name, part, part.clone()) for name, part in given.items())
        return given

    monkeypatch.setattr(Decoding, "read", read)
    return seen


def stepwise_and_whole(model, ids):
    parts, whole = MemoryCache(model), MemoryCache(model)
    steps = [model(ids[:, t : t + 1], past_key_values=parts).logits for t in range(ids.shape[1])]
    expected = model(ids, past_key_values=whole).logits
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(parts.memory, whole.memory, rtol=0, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("corrections", ["qo", "qkvo"])
def test_no_layer_writes_into_the_corrections_of_another(handed_out, batch, corrections):
    model = make_model(corrections=corrections)
    memory = torch.randn(batch, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    model(make_tokens(batch, 1), past_key_values=MemoryCache(model, memory))
    assert all(part.abs().max() > 1e-3 for _, _, part, _ in handed_out)
    assert [(layer, name) for layer, name, *_ in handed_out] == [
        (layer, name) for layer in range(3) for name in corrections
    ]
    assert all(torch.equal(part, then) for _, _, part, then in handed_out)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks for it
def test_projections_of_equal_width_are_told_by_their_names(handed_out):
    """Two adapters in different layers, one for q and o, one for k and v, which are as wide."""
    backbone = make_backbone(num_key_value_heads=4)
    options = {"rank": 4, "heads": 2, "init": "random"}
    model = get_peft_model(backbone, DeltaMemConfig(corrections="qo", layers=[0], **options))
    model.add_adapter("other", DeltaMemConfig(corrections="kv", layers=[1, 2], **options))
    for name in ("default", "other"):
        model.set_adapter(name)
        stir(model)
    model.base_model.set_adapter(["default", "other"])
    stepwise_and_whole(model.eval(), make_tokens(1, 9))
    names = {(layer, name) for layer, name, *_ in handed_out}
    assert names == {(0, "q"), (0, "o"), (1, "k"), (1, "v"), (2, "k"), (2, "v")}


@pytest.mark.parametrize("batch", [1, 2, 5, FEW, FEW + 1])
@pytest.mark.parametrize("corrections", ["q", "o", "kv", "qkvo"])
def test_steps_equal_the_whole_for_any_corrections_and_batch(batch, corrections):
    stepwise_and_whole(make_model(corrections=corrections), make_tokens(batch, 7))
