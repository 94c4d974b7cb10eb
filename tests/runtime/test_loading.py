"""Loading: what is missing, what does not fit, and what a fingerprint depends on."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from deltamem_agents.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from deltamem_agents.runtime import loading
from deltamem_agents.runtime.answer import Options
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.runtime.template import WritePolicy
from deltamem_agents.testing import byte_tokenizer, save_tiny, tiny_backbone, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def test_what_is_missing_is_named(saved, tmp_path):
    backbone, adapter = saved
    with pytest.raises(ModelNotFoundError, match="folder or a name on the hub"):
        load_engine("/no/such/model", adapter)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_engine(tmp_path / "nowhere", adapter)
    with pytest.raises(ModelNotFoundError, match="weights as safetensors"):
        load_engine(str(tmp_path), adapter)
    with pytest.raises(ModelNotFoundError):
        load_engine(str(backbone), str(tmp_path / "no adapter"))
    with pytest.raises(ConfigError, match="with its adapter"):
        load_engine(str(backbone))
    with pytest.raises(ConfigError, match="with its tokenizer"):
        load_engine(tiny_model())


def test_an_adapter_of_another_backbone_is_refused(saved):
    with pytest.raises(UnsupportedModelError):
        load_engine(tiny_backbone(layers=3, hidden=64), saved[1], tokenizer=byte_tokenizer())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float8"}, "dtype is one of"),
        ({"context_window": 0}, "context_window is at least 1"),
        ({"context_window": 1024}, "below the model's 1024 positions"),
        ({"context_window": 100, "low_water": 101}, "low_water"),
        ({"quantization": "2bit"}, "4bit"),
    ],
)
def test_values_that_break_a_rule(saved, options, words):
    with pytest.raises(Exception, match=words):
        load_engine(*map(str, saved), **options)


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_quantization_says_what_to_install(saved):
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        load_engine(*map(str, saved), quantization="4bit")


def test_the_fingerprint_names_all_that_makes_a_memory(saved):
    def name(**options):
        return load_engine(*map(str, saved), **options).fingerprint

    first = name()
    assert first == name(dtype="float32", context_window=77)
    others = {
        name(template="qwen3"),
        name(write_policy=WritePolicy(user=False)),
        load_engine(tiny_model(seed=3), tokenizer=byte_tokenizer()).fingerprint,
    }
    assert len(others) == 3
    assert first not in others
    assert len(first) == 64


def test_another_tokenizer_or_shape_makes_another_memory(saved, tmp_path):
    """The same weights with other ids for a text, or another rotary base, read something else."""

    def changed(name, change):
        folder = Path(shutil.copytree(saved[0], tmp_path / name))
        file = folder / ("config.json" if name == "config" else "tokenizer.json")
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))
        return load_engine(folder, saved[1]).fingerprint

    def swap(values):
        words = values["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]

    def turn(values):
        values["rope_parameters"]["rope_theta"] *= 2

    def rename(values):
        values["transformers_version"], values["use_cache"] = "5.0.0", False

    first = load_engine(*saved).fingerprint
    assert changed("tokenizer", swap) != first
    assert changed("config", turn) != first
    shutil.rmtree(tmp_path / "config")
    assert changed("config", rename) == first


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_half_precision_keeps_the_memory_in_float32(saved, dtype):
    engine = load_engine(*map(str, saved), dtype=dtype, attn_implementation="eager")
    assert next(engine.model.model.layers[0].mlp.parameters()).dtype == getattr(
        torch, str(dtype).removeprefix("torch.")
    )
    history = [{"role": "user", "content": "hello"}]
    *_, final = engine.generate(None, history, options=Options(Sampling(max_tokens=4)))
    assert final.usage.output_tokens == 4
    assert str(final.state.state.dtype) == "float32"
    assert final.state.norm > 0


@pytest.mark.parametrize(
    ("flash", "device", "dtype", "chosen"),
    [
        (True, "cuda", torch.bfloat16, "flash_attention_2"),
        (True, "cuda:1", torch.float16, "flash_attention_2"),
        (True, "cuda", torch.float32, "sdpa"),
        (True, "cpu", torch.bfloat16, "sdpa"),
        (False, "cuda", torch.bfloat16, "sdpa"),
    ],
)
def test_attention_is_chosen_by_what_is_there(monkeypatch, flash, device, dtype, chosen):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: flash)
    assert loading._attention(device, dtype) == chosen


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_fewer_bits_are_asked_of_transformers(monkeypatch, bits):
    """Where bitsandbytes is installed; its kernels are not run here."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    config = loading._quantization(bits)
    assert (config.load_in_4bit, config.load_in_8bit) == (bits == "4bit", bits == "8bit")
