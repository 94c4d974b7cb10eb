"""Families of decoders against an oracle that shares none of our code but the parameters.

The oracle computes the reads token by token in float64, and adds corrections by hooks of its own on
the projections. Where queries, keys and values lie in a packed projection is checked apart, on what
arrives at torch's attention.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache, MemoryCall, attach, detach
from deltamem_agents.adapter.backbones import find_sites
from deltamem_agents.errors import UnsupportedModelError

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 200, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "max_position_embeddings": 512,
}  # fmt: skip
HEADS = {"head_dim": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {
    "shared_expert_intermediate_size": 32, "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
MLA = {
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}  # fmt: skip
FAMILIES: dict[str, dict] = {
    "llama": {}, "mistral": {"sliding_window": 16, **HEADS}, "qwen2": {}, "qwen3": HEADS,
    "qwen3_moe": {**HEADS, **MOE}, "smollm3": {}, "gemma": HEADS, "gemma2": {**HEADS, **WINDOW},
    "gemma3_text": {**HEADS, **WINDOW}, "phi": {}, "phi3": {}, "olmo": {}, "olmo2": {},
    "olmo3": {}, "deepseek_v3": MLA, "gpt_oss": {**HEADS, "num_local_experts": 4,
                                                 "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4}, "granite": {}, "cohere": {}, "cohere2": HEADS,
    "glm": HEADS, "glm4": HEADS, "starcoder2": {}, "stablelm": {}, "nemotron": {},
    "helium": HEADS, "exaone4": HEADS, "ernie4_5": HEADS, "gpt_neox": {}, "falcon": {},
    "gpt2": {}, "gptj": {"rotary_dim": 8}, "opt": {"ffn_dim": 64, "word_embed_proj_dim": 64},
    "bloom": {}, "persimmon": {"num_key_value_heads": 4},
    "qwen3_next": {**HEADS, **MOE, **LINEAR}, "lfm2": {},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 4}, "qwen3_5_text": {**HEADS, **LINEAR},
    "qwen3_5_moe_text": {**HEADS, **MOE, **LINEAR},
    "gemma4_text": {**HEADS, "vocab_size_per_layer_input": 200},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
}  # fmt: skip
FALCONS = {
    "new": {"new_decoder_architecture": True}, "multi-query": {"multi_query": True},
    "multi-head": {"multi_query": False},
}  # fmt: skip
EAGER = {"gpt_oss", "gemma2", "gptj", "bloom", "mpt", "gpt_neo"}  # sinks, soft caps, no other
TABLE: list[str] = []


def make(family: str, **changes):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**SHAPE, **FAMILIES[family], **changes})
    how = "eager" if family in EAGER else "sdpa"
    return AutoModelForCausalLM.from_config(config, attn_implementation=how).eval()


def give_effect(model):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            if last in ("beta_proj", "delta_q_proj", "delta_o_proj"):
                nn.init.normal_(parameter, std=0.1, generator=generator)


def query_rows(model, attention) -> tuple[nn.Module, list[int] | slice]:
    """Where queries come from, in each family's own words; written without our registry."""
    config = model.config
    size = getattr(attention, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = range(config.num_attention_heads)
    if hasattr(attention, "query_key_value"):
        packed = attention.query_key_value
        if config.model_type == "falcon" and config.multi_query:
            return packed, slice(0, config.hidden_size)
        return packed, [h * 3 * size + i for h in heads for i in range(size)]
    if config.model_type == "phi3":
        return attention.qkv_proj, slice(0, config.hidden_size)
    if config.model_type == "mpt":
        return attention.Wqkv, slice(0, config.hidden_size)
    if config.model_type == "gpt2":
        return attention.c_attn, slice(0, config.hidden_size)
    if config.model_type.startswith(("qwen3_next", "qwen3_5")):
        return attention.q_proj, [h * 2 * size + i for h in heads for i in range(size)]
    name = "q_b_proj" if hasattr(attention, "q_b_proj") else "q_proj"
    return getattr(attention, name), slice(None)


class Oracle:
    """Corrections computed by the definition, in float64, one token after the other."""

    def __init__(self, memory: nn.Module, mask: torch.Tensor) -> None:
        self.p = {n: p.detach().double() for n, p in memory.named_parameters()}
        self.mask, self.reads = mask, None

    def listen(self, module, args, kwargs):
        x = (kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).double()
        unit = nn.functional.normalize
        q, k = (unit(torch.tanh(x @ self.p[f"memory_{n}_proj"].T), dim=-1) for n in "qk")
        v = x @ self.p["memory_v_proj"].T
        beta = torch.sigmoid(x @ self.p["beta_proj"].T + self.p["beta_bias"])
        state, reads = torch.zeros(x.shape[0], 8, 8, dtype=torch.float64), []
        for t in range(x.shape[1]):
            real = self.mask[:, t, None].double()
            reads.append((state @ q[:, t, :, None])[..., 0] * real)
            surprise = v[:, t] - (state @ k[:, t, :, None])[..., 0]
            after = (1 - beta[:, t, :, None]) * state
            # written out: lambda S + beta (v - S k) k^T
            after = after + (beta[:, t] * surprise)[..., None] * k[:, t, None, :]
            state = torch.where(real[..., None] > 0, after, state)
        self.reads = torch.stack(reads, 1)

    def correct(self, name, rows):
        def hook(module, args, output):
            output = output.clone()
            part = 2.0 * self.reads @ self.p[f"delta_{name}_proj"].T
            output[..., rows] = output[..., rows] + part.to(output.dtype)
            return output

        return hook


def with_oracle(backbone, model, mask):
    """A copy of the backbone that computes what `model` should."""
    copied = copy.deepcopy(backbone)
    for site in find_sites(model):
        attention = copied.get_submodule(site.path)
        oracle = Oracle(site.module.delta_mem["default"], mask)
        attention.register_forward_pre_hook(oracle.listen, with_kwargs=True)
        query, rows = query_rows(copied, attention)
        query.register_forward_hook(oracle.correct("q", rows))
        outputs = [n for n in ("o_proj", "dense", "out_proj", "c_proj") if hasattr(attention, n)]
        getattr(attention, outputs[0]).register_forward_hook(oracle.correct("o", slice(None)))
    return copied


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_family_agrees_with_the_oracle(family):
    backbone = make(family)
    ids = torch.randint(3, 200, (2, 33), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    real = mask.bool()
    options = {"attention_mask": mask, "use_cache": False}
    plain = backbone(ids, **options).logits
    model = attach(copy.deepcopy(backbone), DeltaMemConfig(init="zero"))
    assert torch.equal(model(ids, **options).logits[real], plain[real])  # zero: the backbone
    give_effect(model)
    got = model(ids, **options).logits
    effect = float((got - plain)[real].abs().max())
    assert effect > 1e-3
    expected = with_oracle(backbone, model, real)(ids, **options).logits
    error = float((got - expected)[real].abs().max())
    assert error < 1e-4

    cache, steps = MemoryCache(model), []
    cuts = [0, 20, *range(21, 34)]
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    whole = model(ids, position_ids=positions, **options).logits
    for a, b in pairwise(cuts):
        out = model(
            ids[:, a:b], attention_mask=mask[:, :b], past_key_values=cache,
            position_ids=positions[:, a:b], use_cache=True,
        )  # fmt: skip
        steps.append(out.logits)
    stepped = float((torch.cat(steps, 1) - whole)[real].abs().max())
    assert stepped < 1e-3
    ports = find_sites(model)[0].ports
    TABLE.append(
        f"{family:12s} layers {cache.memory.shape[1]}  ports {''.join(ports):4s}  "
        f"effect {effect:7.3f}  oracle {error:.1e}  steps {stepped:.1e}"
    )
    assert torch.equal(detach(model)(ids, **options).logits[real], plain[real])


def test_table(capsys):
    """The table, and that it has at least 25 rows."""
    if len(TABLE) < 2:
        pytest.skip("the families were not run")
    with capsys.disabled():
        print("\n" + "\n".join(TABLE))
    assert len(TABLE) >= 25


class AttentionInputs:
    """What arrives at torch's attention: query, key, value of each layer."""

    def __init__(self, monkeypatch) -> None:
        self.seen: list[tuple[torch.Tensor, ...]] = []
        real = nn.functional.scaled_dot_product_attention

        def spy(query, key, value, *args, **kwargs):
            self.seen.append((query, key, value))
            return real(query, key, value, *args, **kwargs)

        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)


def record_corrections(memory, monkeypatch) -> list[dict[str, torch.Tensor]]:
    heard = []
    original = type(memory).corrections

    def spy(self, *args):
        heard.append(original(self, *args))
        return heard[-1]

    monkeypatch.setattr(type(memory), "corrections", spy)
    return heard


PACKED = [("phi3", {}), ("gpt2", {}), ("gpt_neox", {})]
PACKED += [("falcon", changes) for changes in FALCONS.values()]


@pytest.mark.parametrize(("family", "changes"), PACKED)
@torch.no_grad()
def test_packed_projections_are_corrected_where_they_belong(family, changes, monkeypatch):
    """At position 0 nothing is rotated: a correction arrives at attention as it was computed."""
    layer, ids = 0, torch.tensor([[7]])
    for name in "qkv":
        model = make(family, **changes)
        plain = AttentionInputs(monkeypatch)
        model(ids, use_cache=False)
        before = plain.seen[layer]
        monkeypatch.undo()
        attach(model, DeltaMemConfig(corrections=[name], layers=[layer]))
        give_effect(model)
        state = torch.randn(1, 1, 1, 8, 8, generator=torch.Generator().manual_seed(4))
        cache = MemoryCache(model, state, keep_kv=False)
        memory = find_sites(model, (layer,))[0].module.delta_mem["default"]
        heard = record_corrections(memory, monkeypatch)
        spied = AttentionInputs(monkeypatch)
        model(ids, past_key_values=cache, delta_mem=MemoryCall(write=False))
        monkeypatch.undo()
        after = spied.seen[layer]
        reads, weight = heard[0][name]
        correction = (reads @ weight.T).flatten(1)
        for i, other in enumerate("qkv"):
            change = (after[i] - before[i]).transpose(1, 2).flatten(1)
            expected = correction if other == name else torch.zeros_like(change)
            if change.shape != expected.shape:  # keys repeated for groups of queries
                copies = change.shape[1] // expected.shape[1]
                heads = expected.view(1, -1, model.config.hidden_size // 4)
                expected = heads.repeat_interleave(copies, 1).flatten(1)
            assert torch.allclose(change, expected, atol=1e-5), (name, other)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("mamba", {}, "MambaForCausalLM"),
        ("codegen", {"rotary_dim": 8}, "CodeGenAttention"),
        ("t5", {"d_model": 64, "num_layers": 2, "num_heads": 4, "d_kv": 16}, "encoder-decoder"),
    ],
)
def test_unsupported_families_are_named(family, changes, said):
    shape = {k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}
    config = CONFIG_MAPPING[family](**{**shape, **changes})
    from transformers import AutoModelForSeq2SeqLM

    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    model = auto.from_config(config)
    with pytest.raises(UnsupportedModelError, match=said):
        attach(model, DeltaMemConfig())
    assert all(p.requires_grad for p in model.parameters())


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64}  # fmt: skip
WORDS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("clip_text_model", WORDS),
        ("siglip_vision_model", {"image_size": 32, "patch_size": 8}),
        ("clip_vision_model", {"image_size": 32, "patch_size": 8}),
        ("wav2vec2", {"conv_dim": (16,) * 7}), ("eurobert", WORDS),
        ("llama", {**WORDS, "is_causal": False}),
        ("gemma3_text", {**WORDS, "head_dim": 8, "use_bidirectional_attention": True}),
    ],
)  # fmt: skip
def test_encoders_are_refused(family, changes):
    model = AutoModel.from_config(CONFIG_MAPPING[family](**TINY, **changes))
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(UnsupportedModelError, match="causal decoder"):
        attach(model, DeltaMemConfig(rank=2, init="random"))
    assert [name for name, _ in model.named_modules()] == names


def test_corrections_that_a_family_has_no_place_for():
    with pytest.raises(UnsupportedModelError, match=r"\['k', 'v'\]"):
        attach(make("deepseek_v3"), DeltaMemConfig(corrections="qkvo"))
