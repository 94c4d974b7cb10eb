"""`generate()` as transformers users call it, and the memory follows."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    StoppingCriteria,
)

from deltamem_agents.adapter import DeltaMemConfig, MemoryCache, MemoryCall, attach, detach
from deltamem_agents.adapter.flight import FLIGHT
from deltamem_agents.adapter.generation import Generation
from deltamem_agents.errors import StateError, UnsupportedModelError

GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def gap(one: torch.Tensor, two: torch.Tensor) -> float:
    assert one.shape == two.shape
    return float((one - two).abs().max())


def left_padded(rows):
    width = max(row.shape[1] for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - row.shape[1] :] = row
        mask[i, width - row.shape[1] :] = 1
    return ids, mask


def sessions(model, tokens, lengths=(20, 50, 33)):
    """Memories of sessions of different lengths, [B, L, H, R, R]."""
    memories = []
    for i, length in enumerate(lengths):
        cache = MemoryCache(model)
        model(tokens(1, length, seed=20 + i), past_key_values=cache)
        memories.append(cache.memory)
    return torch.cat(memories)


def test_the_memory_matters(model, tokens):
    ids, memory = tokens(1, 7), sessions(model, tokens)[:1]
    empty = model(ids).logits
    assert gap(model(ids, past_key_values=MemoryCache(model, memory)).logits, empty) > 0.1


def test_two_generate_calls_equal_one_pass(model, tokens):
    cache = MemoryCache(model)
    first = model.generate(tokens(1, 12), past_key_values=cache, max_new_tokens=6, **GREEDY)
    longer = torch.cat([first, tokens(1, 9, seed=1)], 1)
    second = model.generate(longer, past_key_values=cache, max_new_tokens=6, **GREEDY)
    whole = model(second[:, :-1], use_cache=True)
    assert torch.equal(whole.logits[:, -6:].argmax(-1), second[:, -6:])
    assert gap(whole.past_key_values.memory, cache.memory) < 1e-5


def test_a_plain_cache_gets_a_memory_in_place(model, tokens):
    plain = DynamicCache(config=model.config)
    model(tokens(1, 9), past_key_values=plain)
    mine = MemoryCache(model)
    model(tokens(1, 9), past_key_values=mine)
    assert isinstance(plain, DynamicCache)
    assert torch.equal(plain.memory, mine.memory)


def test_generation_without_a_cache_is_the_same(model, tokens):
    ids = tokens(1, 12)
    kept = model.generate(ids, max_new_tokens=8, **GREEDY)
    none = model.generate(ids, max_new_tokens=8, use_cache=False, **GREEDY)
    assert torch.equal(kept, none)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 3}])
def test_sampling_without_a_cache_is_the_same(model, tokens, options):
    said = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        said.append(
            model.generate(
                tokens(2, 12), do_sample=True, use_cache=use_cache, max_new_tokens=8,
                eos_token_id=None, pad_token_id=0, **options,
            )
        )  # fmt: skip
    assert torch.equal(*said)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks for it
@pytest.mark.parametrize("way", ["attach", "peft", "lora over it"])
@pytest.mark.parametrize("chunk", [None, 16])
def test_generate_asks_for_the_last_logits_only(build, backbone, tokens, way, chunk):
    """It asks a model's forward whether that can be had; ours, in its place, says what is true."""
    model = build() if way != "peft" else get_peft_model(backbone(), DeltaMemConfig(rank=4))
    if way == "lora over it":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT on stacking
            model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    seen = []
    head = next(m for n, m in model.named_modules() if n.endswith("lm_head"))
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    options = {"prefill_chunk_size": chunk, "max_new_tokens": 3, **GREEDY}
    model.generate(input_ids=tokens(1, 40), **options)
    assert seen == [1] * (3 if chunk is None else 5)


def test_sampling_from_a_session_with_several_samples(model, tokens):
    memory, ids = sessions(model, tokens)[:1], tokens(1, 6)
    options = {"do_sample": True, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 6}
    cache = MemoryCache(model, memory)
    torch.manual_seed(5)
    together = model.generate(ids, past_key_values=cache, num_return_sequences=3, **options)
    assert len({tuple(row) for row in together.tolist()}) > 1
    for row in range(3):  # each sample's memory is that of a session that read this very text
        alone = MemoryCache(model, memory)
        model(together[row : row + 1, :-1], past_key_values=alone)
        assert gap(cache.memory[row : row + 1], alone.memory) < 1e-5


@pytest.mark.parametrize("memory", [False, True])
def test_beam_search_equals_beam_search_without_a_cache(model, tokens, memory):
    rows = [tokens(1, n, seed=n) for n in (4, 9, 6)]
    ids, mask = left_padded(rows)
    options = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 10, **GREEDY}
    if not memory:
        kept = model.generate(ids, **options)
        assert torch.equal(kept, model.generate(ids, use_cache=False, **options))
        return
    states = sessions(model, tokens)
    cache = MemoryCache(model, states)
    kept = model.generate(ids, past_key_values=cache, **options)
    for row, prompt in enumerate(rows):
        alone = MemoryCache(model, states[row : row + 1])
        one = model.generate(
            prompt, past_key_values=alone, num_beams=3, max_new_tokens=10, **GREEDY
        )
        assert torch.equal(kept[row, -10:], one[0, -10:])


def test_beams_over_a_cache_with_tokens_need_room_for_them(model, tokens):
    cache, ids = MemoryCache(model), tokens(1, 9)
    model(ids[:, :5], past_key_values=cache)
    options = {"num_beams": 3, "max_new_tokens": 6, **GREEDY}
    with pytest.raises(StateError, match="batch_repeat_interleave"):
        model(ids[:, 5:].repeat(3, 1), past_key_values=cache)
    cache.batch_repeat_interleave(3)
    kept = model.generate(ids, past_key_values=cache, **options)
    assert torch.equal(kept, model.generate(ids, use_cache=False, **options))


@pytest.mark.parametrize("how", ["samples", "beams", "sampled beams"])
def test_only_generate_repeats_a_memory(model, tokens, how):
    """What it makes of two sessions are rows of these two, each with its own memory."""
    memory, ids = sessions(model, tokens)[:2], tokens(2, 6)
    cache = MemoryCache(model, memory)
    with pytest.raises(StateError, match="generate"):  # the very same rows, but nobody says beams
        model(ids.repeat_interleave(3, 0), past_key_values=cache)
    assert torch.equal(cache.memory, memory)
    options = {"num_return_sequences": 3, "max_new_tokens": 1, **GREEDY}
    options |= {"do_sample": how != "beams", "num_beams": 1 if how == "samples" else 3}
    model.generate(ids, past_key_values=cache, **options)
    expected = MemoryCache(model, memory)
    model(ids, past_key_values=expected)
    assert gap(cache.memory, expected.memory.repeat_interleave(3, 0)) < 1e-5
    assert FLIGHT.generation is None


def test_a_forward_inside_generate_that_is_not_its_own(model, tokens):
    """A logits processor that asks the same model about another session gets no beams."""
    memory, ids, refused = sessions(model, tokens)[:1], tokens(1, 6), []

    def ask(_, scores):
        if not refused:
            with pytest.raises(StateError, match="batch"):
                model(ids.repeat(4, 1), past_key_values=MemoryCache(model, memory))
            refused.append(1)
        return scores

    cache = MemoryCache(model, memory)
    options = {"num_beams": 3, "max_new_tokens": 3, **GREEDY}
    model.generate(ids, past_key_values=cache, logits_processor=[ask], **options)
    assert refused
    assert len(cache.memory) == 3


def test_an_ended_row_is_one_of_its_own_cache(model, tokens):
    """Another session of as many rows, asked while one has ended, is read whole."""
    rows, sizes = [True, False], []

    class First(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor(rows)

    def ask(_, scores):
        for batch in (1, 2):
            other = MemoryCache(model)
            model(tokens(batch, 1), past_key_values=other)
            sizes.append(other.memory.abs().amax((1, 2, 3, 4)))
        return scores

    model.generate(
        tokens(2, 5),
        max_new_tokens=3,
        stopping_criteria=[First()],
        logits_processor=[ask],
        **GREEDY,
    )
    assert len(sizes) == 6
    assert all(float(size.min()) > 1e-3 for size in sizes)


def test_a_single_row_needs_no_mask(model, tokens, monkeypatch):
    """Looking into one would stall a GPU at each token."""
    seen, unfinished = [], Generation.unfinished

    def watched(self, tokens):
        seen.append(unfinished(self, tokens))
        return seen[-1]

    monkeypatch.setattr(Generation, "unfinished", watched)
    model.generate(tokens(1, 5), max_new_tokens=4, **GREEDY)
    assert seen == [None] * 4
    seen.clear()
    model.generate(tokens(2, 5), max_new_tokens=4, **GREEDY)
    assert [mask is None for mask in seen] == [True, False, False, False]


def test_generate_is_a_method_of_the_model(model, tokens):
    with pytest.raises(UnsupportedModelError, match="method of the model"):
        type(model).generate(model, tokens(1, 4), max_new_tokens=2, **GREEDY)


class EndsWith(StoppingCriteria):
    """A row ends after one of these tokens; generate knows nothing of them but that."""

    def __init__(self, ends):
        self.ends = torch.tensor(ends)

    def __call__(self, input_ids, scores, **kwargs):
        return torch.isin(input_ids[:, -1], self.ends)


def asked(how, end, pad):
    """Options of a generate, for an end and a padding that it is told in different ways."""
    if how == "to generate":
        return {"eos_token_id": [end, 96], "pad_token_id": pad}
    if how == "a configuration":
        config = GenerationConfig(
            eos_token_id=end, pad_token_id=pad, do_sample=False, max_new_tokens=12
        )
        return {"generation_config": config}
    if how == "a criterion":
        return {"stopping_criteria": [EndsWith([end])], "eos_token_id": 96, "pad_token_id": pad}
    return {
        "stopping_criteria": [EndsWith([end])],
        "eos_token_id": None,
    }  # such rows are not padded


@pytest.mark.parametrize("how", ["to generate", "a configuration", "a criterion", "no end"])
@pytest.mark.parametrize("padding", ["its own", "the end", "a word", "the default"])
@pytest.mark.parametrize("memory", [False, True])
def test_rows_that_end_early_are_as_if_each_were_alone(build, tokens, how, padding, memory):
    """Neither its end nor what is fed after it is written; a token that is meant always is."""
    model = build()
    assert model.generation_config.eos_token_id == 2  # which is none of the ends here
    rows = [tokens(1, n, seed=n) for n in (4, 9, 6)]
    ids, mask = left_padded(rows)
    states = sessions(model, tokens) if memory else torch.zeros(3, 3, 2, 4, 4)

    def generate(ids, states, **options):
        cache = MemoryCache(model, states)
        options = {"do_sample": False, "max_new_tokens": 12} | options
        if "generation_config" in options:
            options = {k: v for k, v in options.items() if k not in ("do_sample", "max_new_tokens")}
        said = model.generate(ids, past_key_values=cache, **options)[:, ids.shape[1] :]
        return said, cache

    free, _ = generate(ids, states, attention_mask=mask, eos_token_id=None, pad_token_id=0)
    ends = [t for t in free[0, 1:8].tolist() if t not in free[1]]  # row 1 goes on to the last
    end, word = ends[0], int(free[1, 4])  # the padding may be a word that row 1 says itself
    pad = {"its own": 0, "the end": end, "a word": word, "the default": None}[padding]
    options = asked(how, end, pad)
    together, cache = generate(ids, states, attention_mask=mask, **options)
    lengths = []
    for i, prompt in enumerate(rows):
        shown = torch.ones_like(prompt)  # or generate takes words like the padding for padding
        one, alone = generate(prompt, states[i : i + 1], attention_mask=shown, **options)
        lengths.append(one.shape[1])
        assert torch.equal(one[0], together[i, : one.shape[1]])
        assert gap(cache.memory[i], alone.memory[0]) < 1e-5
    assert lengths[0] < lengths[1] == 12
    assert padding != "a word" or word in together[1]


def repeating(tokens):
    return torch.cat([tokens(1, 8)] * 4, 1)


def test_prompt_lookup_rolls_back(model, tokens):
    ids, options = repeating(tokens), {"max_new_tokens": 30, "return_dict_in_generate": True}
    plain = model.generate(ids, **options, **GREEDY)
    looked_up = model.generate(ids, prompt_lookup_num_tokens=5, **options, **GREEDY)
    assert torch.equal(plain.sequences, looked_up.sequences)
    assert gap(plain.past_key_values.memory, looked_up.past_key_values.memory) < 1e-5


@pytest.mark.parametrize("assistant", ["backbone", "with memory"])
def test_assisted_decoding_rolls_back(model, tokens, backbone, build, assistant):
    helper = backbone() if assistant == "backbone" else build(rank=2, heads=1)
    ids, options = repeating(tokens), {"max_new_tokens": 30, "return_dict_in_generate": True}
    plain = model.generate(ids, **options, **GREEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers on its own defaults for assistants
        helped = model.generate(ids, assistant_model=helper, **options, **GREEDY)
    assert torch.equal(plain.sequences, helped.sequences)
    assert gap(plain.past_key_values.memory, helped.past_key_values.memory) < 1e-5


@pytest.mark.parametrize("said", ["in the call", "in its configuration"])
def test_an_early_exit_is_refused_and_leaves_the_configuration(build, tokens, said):
    model, ids = build(), tokens(1, 8)
    options = {"max_new_tokens": 4, "do_sample": False}
    wanted = model.generate(ids, **options)
    early = {"assistant_early_exit": 1}
    if said == "in its configuration":
        early = {"generation_config": GenerationConfig(**early, pad_token_id=0)}
    with pytest.raises(UnsupportedModelError, match="assistant_early_exit=1"):
        model.generate(ids, **options, **early)
    assert model.config.num_hidden_layers == 3
    assert torch.equal(model.generate(ids, **options), wanted)


@pytest.mark.parametrize(("length", "taken"), [(9, 1), (9, 9), (40, 23), (700, 200)])
def test_crop_takes_tokens_back(model, tokens, length, taken):
    ids = tokens(1, 12 + length)
    cache, other = MemoryCache(model), MemoryCache(model)
    model(ids[:, :12], past_key_values=cache)
    model(ids[:, 12:], past_key_values=cache)
    cache.crop(-taken)
    model(ids[:, : 12 + length - taken], past_key_values=other)
    assert cache.get_seq_length() == other.get_seq_length()
    assert gap(cache.memory, other.memory) < 1e-5
    more = tokens(1, 3, seed=2)
    one, two = (model(more, past_key_values=c).logits for c in (cache, other))
    assert gap(one, two) < 1e-4


def test_crop_across_single_steps_and_twice(model, tokens):
    ids = tokens(1, 30)
    cache = MemoryCache(model)
    model(ids[:, :10], past_key_values=cache)
    for i in range(10, 30):
        model(ids[:, i : i + 1], past_key_values=cache)
    cache.crop(-7)
    cache.crop(-15)
    other = MemoryCache(model)
    model(ids[:, :8], past_key_values=other)
    assert gap(cache.memory, other.memory) < 1e-5


def test_crop_beyond_what_is_remembered_changes_nothing(model, tokens):
    cache = MemoryCache(model)
    model(tokens(1, 600), past_key_values=cache)
    memory = cache.memory
    with pytest.raises(StateError, match="taken back"):
        cache.crop(-400)
    assert cache.get_seq_length() == 600
    assert torch.equal(cache.memory, memory)
    cache.crop_kv(400)  # keys and values alone
    assert cache.get_seq_length() == 200
    assert torch.equal(cache.memory, memory)


def test_static_cache_and_left_padding(model, tokens):
    ids, mask = left_padded([tokens(1, n, seed=n) for n in (4, 9, 6)])
    options = {"attention_mask": mask, "max_new_tokens": 8, "return_dict_in_generate": True}
    plain = model.generate(ids, **options, **GREEDY)
    static = model.generate(ids, cache_implementation="static", **options, **GREEDY)
    assert torch.equal(plain.sequences, static.sequences)
    assert gap(plain.past_key_values.memory, static.past_key_values.memory) < 1e-5
    again = model.generate(ids, cache_implementation="static", **options, **GREEDY)  # same object
    assert torch.equal(again.sequences, static.sequences)


def test_chunked_prefill(model, tokens):
    ids, options = tokens(1, 100), {"max_new_tokens": 6, "return_dict_in_generate": True}
    whole = model.generate(ids, **options, **GREEDY)
    chunks = model.generate(ids, prefill_chunk_size=16, **options, **GREEDY)
    assert torch.equal(whole.sequences, chunks.sequences)
    assert gap(whole.past_key_values.memory, chunks.past_key_values.memory) < 1e-5


@pytest.mark.parametrize("sizes", [(1,) * 40, (7, 1, 2, 30), (39, 1)])
def test_any_chunks_equal_the_whole(build, tokens, sizes):
    """One token at a time takes the native step; it must agree with the scan, in every mode."""
    for config in (
        {}, {"update": "no_lambda"}, {"update": "lambda_outside"}, {"couple_lambda": False},
        {"rankwise_gates": False}, {"normalize_qk": False, "heads": 1},
        {"couple_lambda": False, "rankwise_gates": False, "update": "lambda_outside"},
        {"o_rmsnorm": True, "trainable_scale": True, "scale_per": "head"},
    ):  # fmt: skip
        model, ids = build(**config), tokens(2, 40)
        if config.get("normalize_qk") is False:
            ids = ids[:, :12]  # without norms the rule is unstable, and rounding grows
        whole, parts = MemoryCache(model), MemoryCache(model)
        expected = model(ids, past_key_values=whole).logits
        got, start = [], 0
        for size in sizes:
            piece = ids[:, start : start + size]
            if piece.shape[1]:
                got.append(model(piece, past_key_values=parts).logits)
            start += size
        assert gap(torch.cat(got, 1), expected) < 2e-4, config
        assert gap(parts.memory, whole.memory) < 2e-5, config


def test_repeat_and_select_rows(model, tokens):
    memory, ids = sessions(model, tokens), tokens(3, 5)
    cache = MemoryCache(model, memory)
    before = model(ids, past_key_values=cache).logits
    rows = cache.memory
    cache.batch_repeat_interleave(2)
    assert torch.equal(cache.memory, rows.repeat_interleave(2, 0))
    cache.batch_select_indices(torch.tensor([5, 0]))
    assert torch.equal(cache.memory, rows[[2, 0]])
    cache.reorder_cache(torch.tensor([1, 1]))
    assert torch.equal(cache.memory, rows[[0, 0]])
    assert cache.get_seq_length() == 5
    assert before.shape[0] == 3
    with pytest.raises(StateError, match="batch"):
        model(ids, past_key_values=cache)


def test_interleaved_sessions_do_not_mix(model, tokens):
    texts = [tokens(1, 10, seed=1), tokens(1, 14, seed=2)]
    questions = [tokens(1, 5, seed=3), tokens(1, 5, seed=4)]

    def run(order):
        caches = [MemoryCache(model), MemoryCache(model)]
        said = [None, None]
        for stage in range(2):
            for i in order:
                ids = texts[i] if stage == 0 else torch.cat([said[i], questions[i]], 1)
                cache = caches[i]
                said[i] = model.generate(ids, past_key_values=cache, max_new_tokens=4, **GREEDY)
        return said, [cache.memory for cache in caches]

    both, memories = run([0, 1])
    for i in range(2):
        alone, memory = run([i])
        assert torch.equal(alone[i], both[i])
        assert torch.equal(memory[i], memories[i])


def test_threads_on_one_model_do_not_mix(model, tokens):
    texts = {name: tokens(1, 10 + i, seed=i) for i, name in enumerate("abcd")}

    def run(ids):
        cache = MemoryCache(model)
        with torch.no_grad():
            out = model.generate(ids, past_key_values=cache, max_new_tokens=12, **GREEDY)
        return out, cache.memory

    alone = {name: run(ids) for name, ids in texts.items()}
    got: dict[str, list] = {name: [] for name in texts}
    threads = [
        threading.Thread(target=lambda n=n: got[n].extend(run(texts[n]) for _ in range(3)))
        for n in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, results in got.items():
        assert len(results) == 3
        for out, memory in results:
            assert torch.equal(out, alone[name][0])
            assert torch.equal(memory, alone[name][1])


def test_a_thread_begins_with_nothing_in_the_air_and_all_of_it_there():
    """A compiled forward asks for each of them before its first call in a thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(dict(vars(FLIGHT))))
    thread.start()
    thread.join()
    names = ["generation", "given", "flown", "call", "corrections"]
    assert found == [dict.fromkeys(names)]


def test_a_batch_of_sessions_equals_each_alone(model, tokens):
    memories = sessions(model, tokens)
    questions = [tokens(1, n, seed=n) for n in (4, 9, 6)]
    ids, mask = left_padded(questions)
    cache = MemoryCache(model, memory=[m.numpy() for m in memories])
    options = {"max_new_tokens": 8, **GREEDY}
    together = model.generate(ids, attention_mask=mask, past_key_values=cache, **options)
    for row, question in enumerate(questions):
        alone = MemoryCache(model, memory=[memories[row]])
        one = model.generate(question, past_key_values=alone, **options)
        assert torch.equal(one[0, -8:], together[row, -8:])
        assert gap(alone.memory[0], cache.memory[row]) < 1e-5
    swapped = MemoryCache(model, memory=memories.flip(0))
    others = model.generate(ids, attention_mask=mask, past_key_values=swapped, **options)
    assert not torch.equal(together[:, -8:], others[:, -8:])  # whose memory it is shows in the text


def test_memory_without_its_tokens(model, tokens):
    cache = MemoryCache(model)
    model(tokens(1, 64), past_key_values=cache)
    memory = cache.memory
    cache.drop_kv()
    assert cache.get_seq_length() == 0
    assert torch.equal(cache.memory, memory)
    question = tokens(1, 7, seed=3)
    fresh = MemoryCache(model, memory)
    assert torch.equal(
        model(question, past_key_values=cache).logits, model(question, past_key_values=fresh).logits
    )


def test_a_cache_can_be_copied(model, tokens):
    cache = MemoryCache(model)
    model(tokens(1, 9), past_key_values=cache)
    snapshot = copy.deepcopy(cache)
    ids = tokens(1, 5, seed=1)
    first = model(ids, past_key_values=cache).logits
    assert torch.equal(model(ids, past_key_values=snapshot).logits, first)
    assert torch.equal(cache.memory, snapshot.memory)


def test_how_generate_writes_is_said_on_the_cache(model, tokens):
    memory = sessions(model, tokens)[:1]
    cache = MemoryCache(model, memory, call=MemoryCall(write=False))
    model.generate(tokens(1, 6), past_key_values=cache, max_new_tokens=5, **GREEDY)
    assert torch.equal(cache.memory, memory)
    model(tokens(1, 6), past_key_values=cache, delta_mem=MemoryCall())  # the keyword goes first
    assert gap(cache.memory, memory) > 1e-3


def test_reset_clears_the_memory(model, tokens):
    cache = MemoryCache(model)
    model(tokens(1, 6), past_key_values=cache)
    cache.reset()
    assert float(cache.memory.abs().max()) == 0
    assert cache.get_seq_length() == 0


def test_paged_attention_is_refused(build, tokens):
    model = build()
    paged = {"cache": object(), "use_cache": False}  # how continuous batching calls a model
    with pytest.raises(UnsupportedModelError, match="continuous batching"):
        model(tokens(1, 4), **paged)
    with pytest.raises(UnsupportedModelError, match="packed"):
        model(tokens(1, 4), cu_seq_lens_q=torch.tensor([0, 2, 4]), use_cache=False)


@pytest.mark.parametrize("way", ["no cache", "a cache", "token mask"])
def test_texts_packed_by_their_positions_are_refused(model, tokens, way):
    ids = tokens(1, 12)
    positions = torch.arange(6).repeat(2)[None]
    options = {"use_cache": way == "a cache"}
    if way == "token mask":
        options["delta_mem"] = MemoryCall(token_mask=torch.ones(1, 12, dtype=torch.bool))
    with torch.no_grad(), pytest.raises(UnsupportedModelError, match="packed into a row"):
        model(ids, position_ids=positions, **options)


def test_positions_that_go_on_are_read_as_without_them(model, tokens):
    ids, start = tokens(2, 8), torch.tensor([[0], [3]])
    wanted = MemoryCache(model)
    cache = MemoryCache(model)
    with torch.no_grad():
        plain = model(ids, past_key_values=wanted).logits
        given = model(ids, past_key_values=cache, position_ids=start + torch.arange(8)).logits
        assert torch.allclose(plain, given, atol=1e-4)  # rotary positions are relative
        model(ids[:, :1], past_key_values=cache, position_ids=start)  # a token has no border
    padded = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    positions = (padded.cumsum(1) - 1).masked_fill(padded == 0, 1)
    with torch.no_grad():
        by_mask = model(ids, attention_mask=padded, position_ids=positions).logits
        left = MemoryCall(token_mask=padded.bool())
        model(ids, position_ids=positions, delta_mem=left)  # padding has no borders either
        alone = model(ids[:1, 2:]).logits
    assert torch.allclose(by_mask[:1, 2:], alone, atol=1e-4)


def test_continuous_batching_reports_the_refusal(build, tokens):
    options = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=16)  # or it takes all memory
    results = build().generate_batch(
        [tokens(5).tolist()], generation_config=options, continuous_batching_config=small
    )
    (result,) = results.values()
    assert "continuous batching" in result.error


def test_a_cache_filled_without_the_adapter_is_refused(backbone, tokens):
    model = backbone()
    cache = DynamicCache(config=model.config)
    model(tokens(1, 5), past_key_values=cache)
    attach(model, DeltaMemConfig(rank=4))
    with pytest.raises(StateError, match="filled without the adapter"):
        model(tokens(1, 5), past_key_values=cache)
    detach(model)
    assert cache.get_seq_length() == 5
