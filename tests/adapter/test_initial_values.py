"""Fresh adapters: the initial values of the released code, and what generate() asks for."""

from __future__ import annotations

import math

import pytest
import torch

from deltamem_agents.adapter import DeltaMemConfig, adapter_parameters, attach, load_adapter
from deltamem_agents.adapter import save_adapter as save
from deltamem_agents.adapter.corrections import LowRank, corrected


def fresh(model, **config):
    """Parameters of layer 1 by name."""
    attach(model, DeltaMemConfig(**config))
    prefix = "model.layers.1.self_attn."
    return {
        name.removeprefix(prefix): parameter.detach()
        for name, parameter in adapter_parameters(model)
        if name.startswith(prefix)
    }


@pytest.mark.parametrize(("init", "width", "taken"), [
    ("base_slice", 2, 6), ("base_slice_fixed", 2, 2), ("base_slice_fixed", 8, 6),
])  # fmt: skip
def test_output_projections_start_as_columns_of_the_backbone(backbone, init, width, taken):
    model = backbone()
    attention = model.model.layers[1].self_attn
    values = fresh(
        model, rank=6, heads=2, corrections="qkvo", init=init, init_width=width, init_scale=0.3
    )
    for name in "qkvo":
        base = attention.get_submodule(f"{name}_proj").weight.detach()
        weight = values[f"delta_{name}_proj"]
        for column in range(taken):
            want = 0.3 * base[:, column] / base[:, column].norm()
            torch.testing.assert_close(weight[:, column], want)
        assert (weight[:, taken:] == 0).all()


def test_zero_starts_as_the_backbone_and_random_within_its_bound(backbone, tokens):
    model, ids = backbone(), tokens(2, 9)
    plain = model(ids).logits
    values = fresh(model, init="zero")
    assert all((values[f"delta_{name}_proj"] == 0).all() for name in "qo")
    assert torch.equal(model(ids).logits, plain)
    values = fresh(backbone(), init="random", rank=4, heads=2, init_scale=0.1)
    for name in "qo":
        weight = values[f"delta_{name}_proj"]
        assert 0.05 / math.sqrt(8) < float(weight.abs().max()) <= 0.1 / math.sqrt(8)


def test_gates_and_factors_start_where_the_configuration_says(backbone):
    values = fresh(
        backbone(), couple_lambda=False, beta_bias=-2.0, o_rmsnorm=True, trainable_scale=True,
        scale_init=0.5, scale_max=2.0,
    )  # fmt: skip
    assert (values["beta_proj"] == 0).all()
    assert (values["lambda_proj"] == 0).all()
    assert (values["beta_bias"] == -2.0).all()
    assert (values["lambda_bias"] == 2.0).all()
    assert (values["delta_o_rmsnorm_weight"] == 1).all()
    torch.testing.assert_close(2 * torch.sigmoid(values["delta_scale_raw"]), torch.tensor([0.5]))


@pytest.mark.parametrize("scale_per", ["layer", "head"])
@torch.no_grad()
def test_a_factor_on_the_corrections_is_as_a_larger_alpha(build, tokens, scale_per):
    options = {"corrections": "qkvo", "alpha": 4.0}
    scaled = build(
        trainable_scale=True, scale_init=1.5, scale_max=2.0, scale_per=scale_per, **options
    )
    plain = build(**options)
    larger = build(**options | {"alpha": 6.0})
    ids = tokens(2, 9)
    torch.testing.assert_close(scaled(ids).logits, larger(ids).logits, rtol=0, atol=1e-4)
    assert (scaled(ids).logits - plain(ids).logits).abs().max() > 1e-2


def test_an_adapter_by_its_name_on_the_hub(build, backbone, tokens, tmp_path, monkeypatch):
    model, ids, asked = build(), tokens(1, 8), []
    save(model, tmp_path / "adapter")

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert not any(pattern.endswith((".py", ".bin")) for pattern in allow_patterns)
        return str(tmp_path / "adapter")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    again = load_adapter(backbone(), "somebody/adapter", revision="v1").eval()
    assert asked == [("somebody/adapter", "v1")]
    assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("rows", [None, (4, 0, 3)])
@torch.no_grad()
def test_a_correction_added_while_it_is_multiplied(dtype, strided, rows):
    draw = torch.Generator().manual_seed(0)
    reads = torch.randn(2, 5, 6, generator=draw)
    weight = torch.randn(7 if rows is None else 3, 6, generator=draw)
    output = torch.randn(2, 7, 5, generator=draw).transpose(1, 2)
    output = (output if strided else output.contiguous()).to(dtype)
    want, product = output.clone(), (reads @ weight.T).to(dtype)
    for column, row in enumerate(range(7) if rows is None else rows):
        want[..., row] += product[..., column]
    got = corrected(output.clone(), LowRank(reads, weight), rows)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(corrected(output.clone(), product, rows), want)
