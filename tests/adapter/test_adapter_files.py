"""Adapters on disk: both formats, and that nothing damaged or foreign is taken."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from deltamem_agents.adapter import (
    DeltaMemConfig,
    MemoryCache,
    MemoryCall,
    adapter_config,
    adapter_fingerprint,
    adapter_parameters,
    attach,
    convert,
    detach,
    load_adapter,
    save_adapter,
)
from deltamem_agents.adapter.layer import DeltaMemLayer
from deltamem_agents.errors import (
    ConfigError,
    DeltaMemError,
    FileFormatError,
    ModelNotFoundError,
    UnsupportedModelError,
)

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def hooks_of(model) -> dict[str, int]:
    """Number of hooks by module."""
    counts = {
        n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.named_modules()
    }
    return {name: count for name, count in counts.items() if count}


def replaced(model) -> dict[str, set[str]]:
    """Methods by module that are not those of its class."""
    names = {"forward", "generate", "_get_stopping_criteria"}
    names |= {f"_delta_mem_{name}" for name in names}
    found = {name: names & set(vars(module)) for name, module in model.named_modules()}
    return {name: methods for name, methods in found.items() if methods}


def untouched(model) -> bool:
    """No layer, no hook, no method of ours, every parameter as trainable as before."""
    return (
        not any(isinstance(m, DeltaMemLayer) for m in model.modules())
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        and not replaced(model)
        and all(p.requires_grad for p in model.parameters())
    )


@pytest.mark.parametrize("case", CASES)
def test_the_released_format_survives_a_round_trip(case, tmp_path):
    """Released -> ours -> released gives the same JSON and the same tensors, key for key."""
    source = GOLDEN / case / "adapter"
    convert(source, tmp_path / "ours")
    assert {p.name for p in (tmp_path / "ours").iterdir()} == {
        "deltamem_config.json", "deltamem_adapter.safetensors",
    }  # fmt: skip
    convert(tmp_path / "ours", tmp_path / "released")
    config = json.loads((source / "delta_mem_config.json").read_text())
    assert json.loads((tmp_path / "released" / "delta_mem_config.json").read_text()) == config
    name = "delta_mem_adapter.pt"
    expected = torch.load(source / name, weights_only=True)
    got = torch.load(tmp_path / "released" / name, weights_only=True)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)

    folder = GOLDEN / case / "backbone"
    marks = set()
    for adapter in (source, tmp_path / "ours", tmp_path / "released"):
        model = load_adapter(AutoModelForCausalLM.from_pretrained(folder), adapter)
        marks.add(adapter_fingerprint(model))
    assert len(marks) == 1
    for style, names in (("official", expected), ("deltamem", None)):
        saved = save_adapter(model, tmp_path / style, format=style)
        if names is not None:
            written = torch.load(saved / name, weights_only=True)
            assert all(torch.equal(written[key], expected[key]) for key in names)


def test_save_and_load(build, backbone, tokens, tmp_path):
    model, ids = build(couple_lambda=False, o_rmsnorm=True, trainable_scale=True), tokens(2, 9)
    save_adapter(model, tmp_path)
    again = load_adapter(backbone(), tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))
    assert adapter_config(again).canonical() == adapter_config(model).canonical()
    assert adapter_fingerprint(again) == adapter_fingerprint(model)
    assert not any(p.requires_grad for p in again.parameters())
    trainable = load_adapter(backbone(), tmp_path, trainable=True)
    assert all(p.requires_grad for _, p in adapter_parameters(trainable))
    with torch.no_grad():
        next(p for _, p in adapter_parameters(again)).add_(1e-3)
    assert adapter_fingerprint(again) != adapter_fingerprint(model)


@pytest.mark.parametrize("config", [{}, {"layers": [1]}, {"corrections": "qkvo"}])
def test_attach_and_detach_leave_the_model_as_it_was(backbone, tokens, config):
    model, ids = backbone(), tokens(2, 9)
    model.lm_head.weight.requires_grad_(False)
    before = logits(model, ids)
    names = [n for n, _ in model.named_modules()]
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    attach(model, DeltaMemConfig(**config))
    assert "default" in {n.rpartition(".")[2] for n, _ in model.named_modules()}
    detach(model)
    assert [n for n, _ in model.named_modules()] == names
    assert {n: p.requires_grad for n, p in model.named_parameters()} == trainable
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not replaced(model)
    assert torch.equal(logits(model, ids), before)
    detach(model)  # nothing to do
    attach(model, DeltaMemConfig())  # and again


@pytest.mark.parametrize("way", ["attach", "second", "peft"])
def test_an_error_in_the_middle_of_attach_leaves_the_model(
    backbone, build, tokens, monkeypatch, way
):
    import deltamem_agents.adapter.model as plain
    import deltamem_agents.adapter.tuner as tuner

    model, ids = build() if way == "second" else backbone(), tokens(2, 9)
    before, real, done = logits(model, ids), plain.add_memory, []
    names, hooks = [n for n, _ in model.named_modules()], hooks_of(model)
    methods = replaced(model)

    def breaks(site, name, memory):
        if len(done) == 2:
            raise RuntimeError("broken on purpose")
        done.append(site)
        return real(site, name, memory)

    for module in (plain, tuner):
        monkeypatch.setattr(module, "add_memory", breaks)
    put = get_peft_model if way == "peft" else partial(attach, name="new")
    with pytest.raises(RuntimeError, match="on purpose"):
        put(model, DeltaMemConfig(rank=2, corrections="qkvo"))
    assert len(done) == 2
    assert [n for n, _ in model.named_modules()] == names
    assert hooks_of(model) == hooks
    assert replaced(model) == methods
    assert untouched(model) or way == "second"
    assert torch.equal(logits(model, ids), before)


@torch.no_grad()
def test_methods_that_others_have_replaced_stay_theirs(backbone, tokens):
    """As tools that move inputs between devices do, before us or after us."""
    model, ids, asked = backbone(), tokens(1, 5), []
    before, bare = logits(model, ids), model.model.forward

    def below(*args, **kwargs):
        asked.append("below")
        return bare(*args, **kwargs)

    model.model.forward = below
    attach(model, DeltaMemConfig(init="random"))
    changed, inner, outer = logits(model, ids), model.model.forward, model.forward

    def above(*args, **kwargs):
        asked.append("above")
        return inner(*args, **kwargs)

    model.model.forward, model.forward = above, partial(outer)
    assert torch.equal(logits(model, ids), changed)
    assert not torch.equal(changed, before)
    assert asked == ["below", "above", "below"]
    assert MemoryCache(model).memory.shape == (1, 3, 1, 8, 8)  # what is wrapped is found
    attach(model, DeltaMemConfig(rank=2), name="second")  # and not put a second time
    detach(model)
    assert vars(model.model)["forward"] is above
    assert torch.equal(logits(model, ids), before)
    attach(model, DeltaMemConfig(init="random"))
    cache = MemoryCache(model)  # what we had there before is below those, and does nothing
    model(ids, past_key_values=cache, delta_mem=MemoryCall(write=False))
    assert float(cache.memory.abs().max()) == 0
    model(ids, past_key_values=cache)
    assert float(cache.memory.abs().max()) > 0
    detach(model)
    assert vars(model.model)["forward"] is above


def test_a_model_goes_when_nobody_wants_it(build):
    model = build()
    watch = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert watch() is None
    finally:
        gc.enable()


def test_attaching_twice_needs_another_name(build):
    model = build()
    with pytest.raises(ConfigError, match="name is new"):
        attach(model, DeltaMemConfig())
    attach(model, DeltaMemConfig(rank=2), name="second")
    assert adapter_config(model).rank == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": 0}, "rank"), ({"rank": True}, "rank"), ({"rank": 2.5}, "rank"),
        ({"heads": 0}, "heads"), ({"alpha": float("nan")}, "alpha"), ({"alpha": 0}, "alpha"),
        ({"corrections": []}, "corrections"), ({"corrections": ["x"]}, "corrections"),
        ({"corrections": ["q", "q"]}, "corrections"), ({"layers": []}, "layers"),
        ({"layers": [-1]}, "layers"), ({"layers": [1, 1]}, "layers"), ({"update": "x"}, "update"),
        ({"write": "paragraph"}, "write"), ({"init": "x"}, "init"),
        ({"couple_lambda": 1}, "couple_lambda"), ({"scale_init": 2.0}, "scale_init"),
        ({"corrections": None}, "corrections"), ({"corrections": 5}, "corrections"),
        ({"corrections": [["q"]]}, "corrections"), ({"layers": 5}, "layers"),
        ({"layers": [[1]]}, "layers"), ({"o_rmsnorm_eps": 0.0}, "o_rmsnorm_eps"),
        ({"beta_bias": "x"}, "beta_bias"),
    ],
)  # fmt: skip
def test_bad_configurations_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        DeltaMemConfig(**fields)


def test_a_configuration_is_fixed():
    config = DeltaMemConfig(corrections=("o", "q"), layers=[2, 0])
    assert (config.corrections, config.layers) == (("q", "o"), (0, 2))
    with pytest.raises(ConfigError, match="fixed"):
        config.rank = 4
    assert DeltaMemConfig.from_canonical(config.canonical()) == config
    with pytest.raises(ConfigError, match=r"is a field"):
        DeltaMemConfig.from_canonical(config.canonical() | {"colour": 1})


def damage(folder, how):
    """Change one thing about an adapter in our format, with a fingerprint that fits."""
    from deltamem_agents.adapter.model import fingerprint

    path, about_path = folder / "deltamem_adapter.safetensors", folder / "deltamem_config.json"
    tensors, about = load_file(path), json.loads(about_path.read_text())
    key = "model.layers.1.self_attn.beta_proj"
    how(tensors, about, key)
    with contextlib.suppress(ConfigError, ValueError):
        config = DeltaMemConfig.from_canonical(dict(about["adapter"]))
        about["fingerprint"] = fingerprint(config, tensors)
    save_file(tensors, path)
    about_path.write_text(json.dumps(about))


DAMAGES = {
    "NaN": (lambda t, a, k: t[k].view(-1)[3:4].fill_(float("nan")), FileFormatError),
    "missing": (lambda t, a, k: t.pop(k), FileFormatError),
    "extra": (lambda t, a, k: t.update({k + "_2": t[k].clone()}), FileFormatError),
    "one of many": (lambda t, a, k: [t.pop(x) for x in list(t) if x != k], FileFormatError),
    "shape": (lambda t, a, k: t.update({k: t[k][:1].clone()}), UnsupportedModelError),
    "whole numbers": (lambda t, a, k: t.update({k: t[k].long()}), FileFormatError),
    "other family": (lambda t, a, k: a["backbone"].update(model_type="llama"),
                     UnsupportedModelError),
    "other size": (lambda t, a, k: a["backbone"].update(hidden_size=64), UnsupportedModelError),
    "other layers": (lambda t, a, k: a["adapter"].update(layers=[9]), UnsupportedModelError),
    "rank 0": (lambda t, a, k: a["adapter"].update(rank=0), ConfigError),
    "no corrections": (lambda t, a, k: a["adapter"].update(corrections=None), ConfigError),
    "a list for an adapter": (lambda t, a, k: a.update(adapter=[{}]), FileFormatError),
    "a number for a backbone": (lambda t, a, k: a.update(backbone=5), FileFormatError),
    "unknown field": (lambda t, a, k: a["adapter"].update(colour=1), ConfigError),
    "later version": (lambda t, a, k: a.update(format_version=2), FileFormatError),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_adapters_are_refused_and_nothing_is_attached(
    build, backbone, tokens, what, tmp_path
):
    how, error = DAMAGES[what]
    save_adapter(build(), tmp_path)
    model, ids = backbone(), tokens(1, 5)
    before = logits(model, ids)
    damage(tmp_path, how)
    with pytest.raises(error):
        load_adapter(model, tmp_path)
    assert untouched(model)
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("name", ["deltamem_adapter.safetensors", "deltamem_config.json"])
@pytest.mark.parametrize("how", ["truncated", "gone", "one bit"])
def test_broken_files_are_refused(build, backbone, name, how, tmp_path):
    save_adapter(build(), tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[-40] ^= 1
        path.write_bytes(data)
    model = backbone()
    with pytest.raises(DeltaMemError):
        load_adapter(model, tmp_path)
    assert untouched(model)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def released(tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "qwen3_tsw" / "adapter", folder)
    return folder


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    folder = released(tmp_path)
    torch.save({"x": Attack(tmp_path / "attacked")}, folder / "delta_mem_adapter.pt")
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "qwen3_tsw" / "backbone")
    with pytest.raises(FileFormatError):
        load_adapter(model, folder)
    assert not (tmp_path / "attacked").exists()
    assert untouched(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_memory_partitions": 2}, "num_memory_partitions"),
        ({"memory_readout_mode": "synthetic_kv"}, "memory_readout_mode"),
        ({"surprise": 1}, "surprise"), ({"rank": None}, "rank"), ({"rank": 0}, "rank"),
        ({"output_init": "magic"}, "init"), ({"delta_heads": None}, "corrections"),
        ({"memory_write_granularity": []}, "write"), ({"target_layers": 5}, "layers"),
    ],
)  # fmt: skip
def test_released_configurations_are_checked(tmp_path, change, said):
    folder = released(tmp_path)
    path = folder / "delta_mem_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DeltaMemError, match=said):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["deltamem_config.json", "delta_mem_config.json"])
def test_deeply_nested_json_is_refused(build, backbone, tmp_path, name):
    folder = tmp_path if name.startswith("deltamem") else released(tmp_path)
    if folder is tmp_path:
        save_adapter(build(), folder)
    (folder / name).write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(FileFormatError):
        load_adapter(backbone(), folder)


def test_one_of_the_tensors_is_not_an_adapter(tmp_path):
    folder = released(tmp_path)
    path = folder / "delta_mem_adapter.pt"
    tensors = torch.load(path, weights_only=True)
    first = next(iter(tensors))
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "qwen3_tsw" / "backbone")
    torch.save({first: tensors[first]}, path)
    with pytest.raises(FileFormatError, match=r"and \d+ more"):
        load_adapter(model, folder)
    torch.save(tensors | {first: tensors[first][:1]}, path)  # would broadcast
    with pytest.raises(UnsupportedModelError, match="shape"):
        load_adapter(model, folder)
    assert untouched(model)


def test_another_backbone_is_refused(tmp_path, backbone):
    model = backbone(hidden_size=64, num_attention_heads=4)
    with pytest.raises(DeltaMemError):
        load_adapter(model, GOLDEN / "qwen3_tsw" / "adapter")  # other widths of q
    assert untouched(model)


def test_folders_that_are_not_there(backbone, tmp_path):
    for source in (tmp_path / "nowhere", "./nowhere", "nowhere"):
        with pytest.raises(ModelNotFoundError):
            load_adapter(backbone(), source)
    with pytest.raises(FileFormatError, match=r"deltamem_config\.json"):
        load_adapter(backbone(), tmp_path)
    with pytest.raises(ConfigError, match="format"):
        save_adapter(attach(backbone(), DeltaMemConfig()), tmp_path, format="onnx")


def test_an_adapter_without_a_place_in_the_released_format(tmp_path):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
        intermediate_size=32, vocab_size=50, first_k_dense_replace=1,
    )  # fmt: skip
    model = attach(DeepseekV3ForCausalLM(config), DeltaMemConfig())
    with pytest.raises(UnsupportedModelError, match="q, k, v and o"):
        save_adapter(model, tmp_path / "released", format="official")
    save_adapter(model, tmp_path / "ours")
    with pytest.raises(UnsupportedModelError, match="q, k, v and o"):
        convert(tmp_path / "ours", tmp_path / "released")
    assert not (tmp_path / "released").exists()


def test_saving_again_replaces_the_whole(build, tmp_path):
    model = build()
    save_adapter(model, tmp_path)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.mul_(0.5)
    save_adapter(model, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    tensors = load_file(tmp_path / "deltamem_adapter.safetensors")
    assert all(torch.equal(tensors[name], p) for name, p in adapter_parameters(model))
