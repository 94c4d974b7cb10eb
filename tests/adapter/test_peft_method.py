"""δ-mem as a method of PEFT: every behaviour that users of PEFT know."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    inject_adapter_in_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from deltamem_agents.adapter import (
    DeltaMemConfig,
    MemoryCache,
    adapter_fingerprint,
    adapter_parameters,
    load_adapter,
    save_adapter,
)
from deltamem_agents.adapter.layer import DeltaMemLayer
from deltamem_agents.errors import ConfigError, FileFormatError, UnsupportedModelError

# PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

LORA = {"target_modules": ["q_proj", "o_proj"], "r": 4, "init_lora_weights": False}


@pytest.fixture
def load(base_folder):
    return lambda: AutoModelForCausalLM.from_pretrained(base_folder).eval()


@pytest.fixture
def peft_model(load, stirred):
    def make(**options):
        torch.manual_seed(7)
        config = DeltaMemConfig(**{"rank": 4, "heads": 2} | options)
        return stirred(get_peft_model(load(), config)).eval()

    return make


@pytest.fixture
def ids(tokens):
    return tokens(2, 20)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def gap(one, two):
    return float((one - two).abs().max())


def test_only_the_adapter_trains(peft_model):
    model = peft_model(modules_to_save=["lm_head"])
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("lm_head.modules_to_save" in n for n in names)
    assert all(".delta_mem.default." in n or "lm_head" in n for n in names)
    trainable, total = model.get_nb_trainable_parameters()
    assert 0 < trainable < total


def test_save_and_from_pretrained(peft_model, load, ids, tmp_path):
    model = peft_model(modules_to_save=["lm_head"])
    expected = logits(model, ids)
    assert gap(expected, logits(load(), ids)) > 1e-2
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.delta_mem.memory_q_proj" in keys
    config = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, DeltaMemConfig)
    assert config.canonical() == model.peft_config["default"].canonical()
    for options in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        again = PeftModel.from_pretrained(load(), tmp_path, **options)
        assert torch.equal(logits(again.eval(), ids), expected)
        assert again.base_model.model.lm_head.modules_to_save[
            "default"
        ].weight.requires_grad == bool(options.get("is_trainable"))


def test_auto_peft_model(peft_model, base_folder, ids, tmp_path):
    model = peft_model()
    model.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    about |= {"base_model_name_or_path": str(base_folder), "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, ids), logits(model, ids))


def test_load_adapter_of_transformers(peft_model, load, ids, tmp_path):
    model = peft_model(layers=[0, 2])
    expected = logits(model, ids)
    model.save_pretrained(tmp_path)
    native = load()
    native.load_adapter(str(tmp_path))
    assert torch.equal(logits(native, ids), expected)
    native.disable_adapters()
    assert torch.equal(logits(native, ids), logits(load(), ids))
    native.enable_adapters()
    assert torch.equal(logits(native, ids), expected)
    native.delete_adapter("default")
    assert torch.equal(logits(native, ids), logits(load(), ids))
    assert not list(native.get_submodule("model.layers.0.self_attn.delta_mem").parameters())


def test_several_adapters(peft_model, load, ids, stirred, tmp_path):
    model = peft_model()
    plain, first = logits(load(), ids), logits(model, ids)
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    model.add_adapter("other", DeltaMemConfig(rank=2, layers=[1, 2]))
    assert torch.equal(logits(model, ids), first)  # not active yet
    model.set_adapter("other")
    stirred(model)
    second = logits(model, ids)
    assert gap(first, second) > 1e-2
    assert MemoryCache(model).memory.shape == (1, 2, 1, 2, 2)
    model.set_adapter("default")
    assert torch.equal(logits(model, ids), first)
    assert MemoryCache(model).memory.shape == (1, 3, 2, 4, 4)
    model.load_adapter(tmp_path, adapter_name="third")
    model.set_adapter("third")
    assert torch.equal(logits(model, ids), first)
    model.set_adapter("other")
    model.delete_adapter("default")
    assert torch.equal(logits(model, ids), second)
    assert not any(".default." in n for n, _ in model.named_parameters())
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), plain)
    assert torch.equal(logits(model, ids), second)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT announces which adapter comes next
        model.delete_adapter("other")
    assert torch.equal(logits(model, ids), first)
    model.delete_adapter("third")
    assert torch.equal(logits(model.base_model.model, ids), plain)  # the last: PEFT has none then


def hooks_of(model):
    """The kinds of hooks by module."""
    found = {}
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if hooks:
            found[name] = [type(hook).__name__ for hook in hooks]
    return found


@pytest.mark.parametrize("way", ["peft", "transformers"])
@pytest.mark.parametrize("last", [False, True])
def test_a_deleted_adapter_leaves_no_hook_that_nobody_needs(
    peft_model, load, ids, tmp_path, way, last
):
    first, wide = peft_model(), peft_model(corrections="qkvo")
    wide.save_pretrained(tmp_path / "wide")
    first.save_pretrained(tmp_path / "first")
    if way == "peft":
        model, layers = first, "base_model.model.model.layers"
    else:
        model, layers = load(), "model.layers"
        model.load_adapter(str(tmp_path / "first"), adapter_name="default")
    hooks, expected = hooks_of(model), logits(model, ids)
    projections = [f"{layers}.{i}.self_attn.{name}_proj" for i in range(3) for name in "qkv"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on a second adapter, and on which one comes next
        model.load_adapter(str(tmp_path / "wide"), adapter_name="wide")
        model.set_adapter("wide")
        assert torch.equal(logits(model, ids), logits(wide, ids))
        assert all(hooks_of(model).get(name) == ["ProjectionExit"] for name in projections)
        for name in ["default", "wide"] if last else ["wide"]:
            model.delete_adapter(name)
    if last:
        assert not any(name in hooks_of(model) for name in projections)
    else:
        model.set_adapter("default")
        assert hooks_of(model) == hooks
        assert torch.equal(logits(model, ids), expected)


def test_two_active_adapters_are_refused(peft_model, ids):
    model = peft_model()
    model.add_adapter("other", DeltaMemConfig(rank=2))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ConfigError, match="one δ-mem adapter"):
        logits(model, ids)


def test_disabled_is_the_backbone_bit_for_bit(peft_model, load, ids):
    model, backbone = peft_model(), load()
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    with torch.no_grad(), model.disable_adapter():
        got = model(input_ids=ids, attention_mask=mask)
        expected = backbone(input_ids=ids, attention_mask=mask)
        assert torch.equal(got.logits, expected.logits)
        assert type(got.past_key_values) is type(expected.past_key_values)
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(
            model.generate(input_ids=ids, **options), backbone.generate(ids, **options)
        )


def test_unload_leaves_nothing_behind(peft_model, load, ids):
    model = peft_model(modules_to_save=["lm_head"]).unload()
    assert torch.equal(logits(model, ids), logits(load(), ids))
    assert {n for n, _ in model.named_modules()} == {n for n, _ in load().named_modules()}
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not {"forward", "generate", "_get_stopping_criteria"} & set(vars(module))
    assert not hasattr(model, "peft_config")


def test_merging_is_refused(peft_model, ids):
    model = peft_model()
    before = logits(model, ids)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(UnsupportedModelError, match="no part of the weights"):
            merge()
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("order", ["under", "over"])
def test_lora_stacked(load, stirred, ids, order):
    """Either way round: the same sum, and each can be taken off without the other."""

    def with_lora(model):
        torch.manual_seed(5)
        return get_peft_model(model, LoraConfig(**LORA)).base_model.model

    def with_memory(model):
        torch.manual_seed(6)
        model = get_peft_model(model, DeltaMemConfig(rank=4, heads=2)).base_model.model
        return stirred(model)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on stacking
        first, second = (with_lora, with_memory) if order == "under" else (with_memory, with_lora)
        model = second(first(load())).eval()
        both = logits(model, ids)
        lora, memory = (logits(make(load()).eval(), ids) for make in (with_lora, with_memory))
    assert min(gap(both, lora), gap(both, memory), gap(lora, memory)) > 1e-2
    reference = with_memory(load()).eval()
    for name in ("q_proj", "o_proj"):  # the same LoRA, added into the weights by hand
        for i, layer in enumerate(reference.model.layers):
            linear = model.get_submodule(f"model.layers.{i}.self_attn.{name}")
            delta = linear.get_delta_weight("default").detach()
            layer.self_attn.get_submodule(name).weight.data += delta
    assert gap(both, logits(reference, ids)) < 1e-4


def test_lora_taken_off_under_the_memory(load, stirred, ids):
    lora = get_peft_model(load(), LoraConfig(**LORA))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on stacking
        inject_adapter_in_model(DeltaMemConfig(rank=4, heads=2), lora.base_model.model, "memory")
    model = stirred(lora.unload()).eval()
    reference = stirred(get_peft_model(load(), DeltaMemConfig(rank=4, heads=2)))
    copied = dict(adapter_parameters(model))
    with torch.no_grad():
        for name, parameter in adapter_parameters(reference):
            parameter.copy_(copied[name])
    assert torch.equal(logits(model, ids), logits(reference.eval(), ids))
    assert gap(logits(model, ids), logits(load(), ids)) > 1e-2


def test_copies_and_pickles_stand_alone(peft_model, ids):
    model = peft_model()
    expected = logits(model, ids)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    said = model.generate(input_ids=ids, **options)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.mul_(0)
    for other in (copied, pickled):
        assert torch.equal(logits(other, ids), expected)
        assert torch.equal(other.generate(input_ids=ids, **options), said)
    assert gap(logits(model, ids), expected) > 1e-2


@pytest.mark.parametrize("write", ["data", "no_grad", "load_state_dict"])
def test_packed_matrices_follow_every_kind_of_write(peft_model, tokens, write):
    model, other, one = peft_model().eval(), peft_model(), tokens(1, 1)
    logits(model, one)
    with torch.no_grad():
        for _, parameter in adapter_parameters(other):
            parameter.mul_(0.5)
    changed = other.state_dict()
    if write == "load_state_dict":
        model.load_state_dict(changed, assign=True)
    for name, parameter in model.named_parameters():
        if write == "data":
            parameter.data.copy_(changed[name])
        elif write == "no_grad":
            with torch.no_grad():
                parameter.copy_(changed[name])
    state = torch.randn(1, 3, 2, 4, 4)
    results = []
    for each in (model, other):
        cache = MemoryCache(each, state)
        with torch.no_grad():
            results.append((each(input_ids=one, past_key_values=cache).logits, cache.memory))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)


def test_bfloat16_backbone_keeps_a_float32_adapter(load, stirred, ids):
    model = stirred(get_peft_model(load().to(torch.bfloat16), DeltaMemConfig(rank=4))).eval()
    assert all(p.dtype == torch.float32 for _, p in adapter_parameters(model))
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=True)
        more = model(input_ids=ids[:, :1], past_key_values=out.past_key_values)
    assert out.logits.dtype == more.logits.dtype == torch.bfloat16
    assert out.past_key_values.memory.dtype == torch.float32


@pytest.mark.parametrize("cast", ["bfloat16", "half", "double", "to"])
def test_a_model_that_changes_its_dtype_later_keeps_a_float32_adapter(load, stirred, ids, cast):
    model = stirred(get_peft_model(load(), DeltaMemConfig(rank=4, heads=2))).eval()
    before = {name: p.detach().clone() for name, p in adapter_parameters(model)}
    model = model.to(torch.bfloat16) if cast == "to" else getattr(model, cast)()
    after = dict(adapter_parameters(model))
    assert all(p.dtype == torch.float32 and torch.equal(p, before[n]) for n, p in after.items())
    assert model.get_base_model().dtype != torch.float32
    out = logits(model, ids[:, :1])
    assert torch.isfinite(out).all()
    assert out.dtype == model.get_base_model().dtype
    assert all(p.is_meta for _, p in adapter_parameters(model.to("meta")))


def test_attentions_and_hidden_states(base_folder, stirred, ids):
    model = AutoModelForCausalLM.from_pretrained(base_folder, attn_implementation="eager")
    model = stirred(get_peft_model(model, DeltaMemConfig(rank=4))).eval()
    with torch.no_grad():
        out = model(input_ids=ids, output_attentions=True, output_hidden_states=True)
    assert len(out.attentions) == 3
    assert len(out.hidden_states) == 4
    assert torch.allclose(out.attentions[0].sum(-1), torch.ones(()), atol=1e-5)


def test_our_files_and_peft_agree(peft_model, load, ids, tmp_path):
    model = peft_model()
    save_adapter(model, tmp_path)
    plain = load_adapter(load(), tmp_path)
    assert torch.equal(logits(plain, ids), logits(model, ids))
    assert adapter_fingerprint(plain) == adapter_fingerprint(model)


def test_a_failed_injection_leaves_the_model_alone(load, ids):
    model = load()
    with pytest.raises(ConfigError):
        get_peft_model(model, DeltaMemConfig(layers=[7]))
    assert not any(isinstance(m, DeltaMemLayer) for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for bad in ({"target_modules": ["q_proj"]}, {"rank": 0}):
        with pytest.raises(ConfigError):
            DeltaMemConfig(**bad)


def damaged(tensors, how):
    key = sorted(tensors)[0]
    if how == "NaN":
        tensors[key] = tensors[key] * float("nan")
    elif how == "missing":
        del tensors[key]
    elif how == "extra":
        tensors[key.replace("layers.0", "layers.7")] = tensors[key].clone()
    elif how == "shape":
        tensors[key] = tensors[key][..., :-1].contiguous()
    return tensors


DAMAGE = ("NaN", "missing", "extra", "shape")


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("option", [None, "is_trainable", "low_cpu_mem_usage"])
def test_peft_files_are_checked_and_a_failed_load_leaves_the_model(
    peft_model, load, ids, tmp_path, how, option
):
    peft_model().save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file(damaged(load_file(weights), how), weights)
    options = {option: True} if option else {}
    bare = load()
    expected, names = logits(bare, ids), [name for name, _ in bare.named_modules()]
    with pytest.raises((FileFormatError, UnsupportedModelError)):
        PeftModel.from_pretrained(bare, tmp_path, **options)
    assert [name for name, _ in bare.named_modules()] == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in bare.modules())
    assert not any(hasattr(bare, name) for name in ("peft_config", "_delta_mem_forward_0"))
    assert torch.equal(logits(bare, ids), expected)


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 2}, {"hidden_size": 24, "num_attention_heads": 2}], ids=str
)
def test_peft_files_of_another_backbone_are_refused(peft_model, backbone, tmp_path, changes):
    peft_model().save_pretrained(tmp_path)
    other = backbone(**changes)
    with pytest.raises((FileFormatError, UnsupportedModelError), match="backbone"):
        PeftModel.from_pretrained(other, tmp_path)
    assert not any(isinstance(m, DeltaMemLayer) for m in other.modules())


@pytest.mark.parametrize("loaded", [False, True])
def test_a_failed_load_takes_no_adapter_off_but_its_own(peft_model, load, ids, tmp_path, loaded):
    peft_model().save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(load(), tmp_path).eval() if loaded else peft_model()
    expected = logits(model, ids)
    weights = tmp_path / "adapter_model.safetensors"
    save_file(damaged(load_file(weights), "NaN"), weights)
    for name in ("default", "other"):
        with pytest.raises(FileFormatError, match="finite"):
            model.load_adapter(tmp_path, name)
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model, ids), expected)
    assert not any("other" in key for key in model.state_dict())


def test_rows_with_adapters_of_their_own_are_refused(peft_model, ids):
    model = peft_model()
    model.add_adapter("other", DeltaMemConfig(rank=4, heads=2, init="random"))
    names = ["default", "other"]
    for run in (model, model.generate):
        with pytest.raises(UnsupportedModelError, match="adapter_names"):
            run(input_ids=ids, adapter_names=names)


class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        ids = torch.randint(3, 97, (16,), generator=torch.Generator().manual_seed(i % 8))
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


class Losses(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.values.append(logs["loss"])


def train(model, folder, *, resume=None, **options):
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, max_steps=12, learning_rate=2e-2,
        report_to=[], logging_steps=1, save_steps=6, use_cpu=True, disable_tqdm=True, seed=3,
        **options,
    )  # fmt: skip
    losses = Losses()
    trainer = Trainer(model=model, args=arguments, train_dataset=Texts(), callbacks=[losses])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainer's own, on pinned memory and tokenizers
        trainer.train(resume_from_checkpoint=resume)
    return losses.values


def test_trainer_learns_and_resumes(peft_model, tmp_path):
    losses = train(peft_model(), tmp_path / "whole")
    assert losses[-1] < losses[0] - 0.05
    saved = sorted(Path(tmp_path / "whole").glob("checkpoint-*"))
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {
        p.name for p in saved[0].iterdir()
    }
    again = train(peft_model(), tmp_path / "again", resume=str(tmp_path / "whole" / "checkpoint-6"))
    assert again == pytest.approx(losses[6:], abs=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(peft_model, ids, reentrant):
    results = []
    for checkpointing in (False, True):
        model = peft_model().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        gradients = {n: p.grad for n, p in adapter_parameters(model)}
        results.append((loss.item(), gradients))
    (loss, plain), (again, recomputed) = results
    assert again == pytest.approx(loss, abs=1e-6)
    for name, gradient in plain.items():
        assert torch.allclose(gradient, recomputed[name], atol=1e-6), name


def test_gradient_checkpointing_across_two_blocks(peft_model, ids):
    """The write of the first block is recomputed, the memory that it left is not written again."""
    results = []
    for checkpointing in (False, True):
        model = peft_model().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        first = MemoryCache(model, keep_kv=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers drops caches where it checkpoints
            model(input_ids=ids, past_key_values=first)
            second = MemoryCache(model, first.memory, keep_kv=False)
            loss = model(input_ids=ids[:, :5], labels=ids[:, :5], past_key_values=second).loss
        left = second.memory
        loss.backward()
        assert torch.equal(second.memory, left)
        results.append({n: p.grad for n, p in adapter_parameters(model)})
    for name, gradient in results[0].items():
        assert torch.allclose(gradient, results[1][name], atol=1e-6), name


def test_reentrant_checkpointing_cannot_carry_a_memory(peft_model, ids):
    """It runs layers without a graph first, so the gradient through the memory would be lost."""
    model = peft_model().train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(UnsupportedModelError, match="use_reentrant"):
        model(input_ids=ids, past_key_values=MemoryCache(model, keep_kv=False))


@pytest.mark.parametrize("options", [None, {"use_reentrant": True}])
def test_trainer_with_gradient_checkpointing(peft_model, tmp_path, options):
    plain = train(peft_model(), tmp_path / "plain")
    saving = train(
        peft_model(), tmp_path / "saving",
        activation_checkpointing=True, activation_checkpointing_kwargs=options,
    )  # fmt: skip
    assert saving == pytest.approx(plain, abs=1e-3)


def test_a_failed_load_over_lora_leaves_lora(peft_model, load, ids, tmp_path):
    peft_model().save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file(damaged(load_file(weights), "NaN"), weights)
    lora = get_peft_model(load(), LoraConfig(**LORA)).eval()
    expected = logits(lora, ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT, of two wrappers
        with pytest.raises(FileFormatError, match=r"finite|parameter"):
            PeftModel.from_pretrained(lora, tmp_path)
    assert not any(isinstance(m, DeltaMemLayer) for m in lora.modules())
    assert torch.equal(logits(lora, ids), expected)
