"""A forward that fails in the middle, or is interrupted: afterwards all is as before it."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache, StaticCache

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache, MemoryCall, attach
from deltamem_agents.adapter.flight import FLIGHT
from deltamem_agents.adapter.rollback import Before
from deltamem_agents.adapter.store import MemoryStore
from deltamem_agents.errors import StateError
from tests.adapter.conftest import make_model, make_tokens, stir

ERRORS = [RuntimeError, KeyboardInterrupt]
PLACES = {
    "k of the middle": lambda model: model.model.layers[1].self_attn.k_proj,
    "o of the last": lambda model: model.model.layers[-1].self_attn.o_proj,
    "the end of the decoder": lambda model: model.model.norm,
    "the head": lambda model: model.lm_head,
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@contextlib.contextmanager
def failing(module, error, after=0):
    """From its call number `after` on, a module raises."""
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) > after:
            raise error("midway")

    handle = module.register_forward_pre_hook(hook)
    try:
        with pytest.raises(error, match="midway"):
            yield
    finally:
        handle.remove()


def nothing_in_the_air():
    left = (FLIGHT.call, FLIGHT.given, FLIGHT.flown, FLIGHT.corrections, FLIGHT.generation)
    return left == (None,) * 5


def held(cache):
    """What a cache holds, copied: the memory, and each layer's length, keys and values."""
    filled = range(len(cache.layers) if int(cache.get_seq_length()) else 0)
    layers = [
        (int(cache.get_seq_length(i)), cache.layers[i].keys, cache.layers[i].values) for i in filled
    ]
    return copy.deepcopy((cache.memory, layers))


def same(one, two):
    """Whether two copies hold the same; in free slots of static layers anything may lie."""
    assert len(one[1]) == len(two[1])
    return torch.equal(one[0], two[0]) and all(
        n == m and torch.equal(a[:, :, :n], b[:, :, :n]) and torch.equal(c[:, :, :n], d[:, :, :n])
        for (n, a, c), (m, b, d) in zip(one[1], two[1], strict=True)
    )


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("read", [0, 6])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("static", [False, True])
def test_cache_and_memory_are_as_before(model, tokens, error, place, read, length, static):
    kind = StaticCache if static else DynamicCache
    options = {"max_cache_len": 32} if static else {}
    cache, twin = (kind(config=model.config, **options) for _ in range(2))
    for each in (cache, twin):
        model(tokens(2, max(read, 1)), past_key_values=each)
        if not read:
            each.reset()
    before, more = held(cache), tokens(2, length, seed=1)
    with failing(PLACES[place](model), error):
        model(more, past_key_values=cache, delta_mem=MemoryCall(record=True))
    assert nothing_in_the_air()
    assert same(held(cache), before)
    assert cache.records == []
    got, expected = (model(more, past_key_values=each).logits for each in (cache, twin))
    assert torch.equal(got, expected)
    assert torch.equal(cache.memory, twin.memory)
    if not static:  # what can be taken back has not suffered either
        cache.crop(-length)
        assert torch.equal(cache.memory, before[0].expand_as(cache.memory))


@pytest.mark.parametrize("error", ERRORS)
def test_open_segments_are_as_before(build, tokens, error):
    model, call = build(write="message"), MemoryCall(segment_ids=0, closes=False)
    cache, twin = MemoryCache(model), MemoryCache(model)
    for each in (cache, twin):
        model(tokens(1, 5), past_key_values=each, delta_mem=call)
    with failing(PLACES["the head"](model), error):
        model(tokens(1, 4, seed=1), past_key_values=cache, delta_mem=MemoryCall(segment_ids=0))
    assert cache.has_open_segments
    for each in (cache, twin):
        model(tokens(1, 4, seed=2), past_key_values=each, delta_mem=MemoryCall(segment_ids=0))
    assert torch.equal(cache.memory, twin.memory)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("after", [0, 3])
def test_a_generate_that_fails_does_not_leave_beams_behind(model, tokens, error, beams, after):
    memory = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    cache, ids = MemoryCache(model, memory), tokens(2, 5)
    options = {"do_sample": beams == 1, "num_beams": beams, "num_return_sequences": 2}
    with failing(PLACES["o of the last"](model), error, after):
        model.generate(
            ids, past_key_values=cache, max_new_tokens=6, eos_token_id=None, pad_token_id=0,
            **options,
        )  # fmt: skip
    assert nothing_in_the_air()
    if after:  # whole steps were taken: keys, values and memory go together
        assert cache.get_seq_length() == 5 + after - 1
        assert len(cache.memory) == 4
        return
    assert torch.equal(cache.memory, memory)
    assert cache.get_seq_length() == 0
    model(ids, past_key_values=cache)  # two rows again


WINDOWS = {"num_hidden_layers": 4, "sliding_window": 8, "head_dim": 16,
           "layer_types": ["sliding_attention", "full_attention"] * 2}  # fmt: skip
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 16, "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "num_hidden_layers": 4,
}  # fmt: skip


def family(name, **changes):
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 97, "pad_token_id": 0,
        "max_position_embeddings": 512,
    }  # fmt: skip
    backbone = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**shape | changes)).eval()
    return stir(attach(backbone, DeltaMemConfig(rank=4, heads=2, init="random"))).eval()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("read", [3, 7, 30])
@pytest.mark.parametrize("length", [1, 5, 12])
def test_sliding_windows_are_as_before(error, read, length):
    model = family("gemma3_text", **WINDOWS)
    cache, twin = MemoryCache(model), MemoryCache(model)
    for each in (cache, twin):
        model(make_tokens(1, read), past_key_values=each)
    before, more = held(cache), make_tokens(1, length, seed=1)
    with failing(PLACES["the head"](model), error):
        model(more, past_key_values=cache)
    assert same(held(cache), before)
    assert torch.equal(
        model(more, past_key_values=cache).logits, model(more, past_key_values=twin).logits
    )
    assert torch.equal(cache.memory, twin.memory)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["linear attention", "a static window that slides"])
def test_what_cannot_be_put_back_is_refused_until_it_is_dropped(error, kind):
    if kind == "linear attention":
        model, said = family("qwen3_next", **LINEAR), "LinearAttentionLayer"
        cache = MemoryCache(model)
    else:
        model, said = family("gemma3_text", **WINDOWS), "StaticSlidingWindowLayer"
        cache = StaticCache(config=model.config, max_cache_len=32)
    model(make_tokens(1, 9), past_key_values=cache)
    memory, more = cache.memory, make_tokens(1, 5, seed=1)
    with failing(PLACES["o of the last"](model), error):
        model(more, past_key_values=cache)
    assert torch.equal(cache.memory, memory)
    for _ in range(2):
        with pytest.raises(StateError, match=said):
            model(more, past_key_values=cache)
    rows = torch.tensor([0])
    for change in (
        lambda: cache.crop(-1), lambda: cache.crop_kv(1), lambda: cache.reorder_cache(rows),
        lambda: cache.batch_repeat_interleave(2), lambda: cache.batch_select_indices(rows),
    ):  # fmt: skip
        with pytest.raises(StateError, match=said):
            change()
    cache.drop_kv()
    fresh = MemoryCache(model, memory)
    got, expected = (model(more, past_key_values=each).logits for each in (cache, fresh))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(cache.memory, fresh.memory)


@pytest.mark.parametrize("error", ERRORS)
def test_a_first_call_that_fails_leaves_an_empty_cache_of_any_kind(error):
    model = family("qwen3_next", **LINEAR)
    cache, ids = MemoryCache(model), make_tokens(1, 9)
    with failing(PLACES["o of the last"](model), error):
        model(ids, past_key_values=cache)
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


@pytest.mark.parametrize("error", ERRORS)
def test_a_refused_call_is_not_remembered(error):
    """Nor is a keyword that never came to the decoder, nor the graph of what had been computed."""
    model, ids = make_model(), make_tokens(1, 6)
    expected = model(ids).logits
    cache = MemoryCache(model)
    with failing(model.get_input_embeddings(), error):
        model(ids, past_key_values=cache, delta_mem=MemoryCall(write=False))
    assert nothing_in_the_air()
    inner = model.model(ids, past_key_values=cache)
    assert torch.equal(model.lm_head(inner.last_hidden_state), expected)
    assert float(cache.memory.abs().max()) > 0


@pytest.mark.parametrize("read", [0, 6])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("owner", ["model", "decoder"])
@pytest.mark.parametrize("stop", ["second layer", "before", "after"])
def test_a_memory_changes_in_all_layers_or_in_none(model, monkeypatch, read, length, owner, stop):
    """Stopped while it is handed over, just before that, or just after."""
    cache, twin = MemoryCache(model), MemoryCache(model)
    if read:
        for each in (cache, twin):
            model(make_tokens(1, read), past_key_values=each)
    run, more = model if owner == "model" else model.model, make_tokens(1, length, seed=1)
    before, calls = held(cache), []
    name = "_set" if stop == "second layer" else "become"
    real = getattr(MemoryStore, name)

    def stopping(self, *args):
        calls.append(1)
        if stop == "after":
            real(self, *args)
        if len(calls) == 2 or stop != "second layer":
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(MemoryStore, name, stopping)
    with pytest.raises(KeyboardInterrupt):
        run(more, past_key_values=cache)
    monkeypatch.undo()
    assert nothing_in_the_air()
    if stop == "after":
        model(more, past_key_values=twin)
        before = held(twin)
    assert same(held(cache), before)
    again = make_tokens(1, 3, seed=2)
    got, expected = (model(again, past_key_values=each).logits for each in (cache, twin))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("read", [0, 6])
def test_keys_and_values_that_were_not_put_back_wholly_are_refused(model, monkeypatch, read):
    cache = MemoryCache(model)
    if read:
        model(make_tokens(1, read), past_key_values=cache)

    def stopping(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Before, "restore", stopping)
    with pytest.raises(KeyboardInterrupt), failing(PLACES["the head"](model), RuntimeError):
        model(make_tokens(1, 5, seed=1), past_key_values=cache)
    monkeypatch.undo()
    with pytest.raises(StateError, match="DynamicLayer"):
        model(make_tokens(1, 5, seed=1), past_key_values=cache)


@pytest.mark.long
def test_a_compiled_forward_that_fails_is_taken_back(model):
    cache, bad = MemoryCache(model), []

    @torch._dynamo.disable
    def fail():
        if bad:
            raise RuntimeError("midway")

    handle = model.lm_head.register_forward_pre_hook(lambda *_: fail())
    try:
        run = torch.compile(model, backend="eager")
        run(make_tokens(1, 6), past_key_values=cache)
        before = held(cache)
        bad.append(1)
        with pytest.raises(RuntimeError, match="midway"):
            run(make_tokens(1, 6, seed=1), past_key_values=cache)
    finally:
        handle.remove()
    assert same(held(cache), before)


def test_what_an_interrupted_recompute_has_left_goes_with_the_next_call():
    model, ids = make_model(rank=4).train(), make_tokens(1, 6)
    model.activation_checkpointing_enable({"use_reentrant": False})
    with torch.enable_grad():
        loss = model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=False).logits.sum()
        with failing(PLACES["k of the middle"](model), KeyboardInterrupt):
            loss.backward()
    assert FLIGHT.corrections is not None
    model(ids)
    assert nothing_in_the_air()
