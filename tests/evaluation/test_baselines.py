"""Baselines are what they are called: each on a case where it must, and one where it must not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.embeddings import Embeddings

from deltamem_agents.errors import ConfigError
from deltamem_agents.evaluation.baselines.compression import Surprise, cut, words_by_score
from deltamem_agents.evaluation.baselines.memorybank import SCALE, Bank, by_extract
from deltamem_agents.evaluation.baselines.mlp_memory import MlpSettings, neighbours_of, train
from deltamem_agents.evaluation.baselines.retrieval import by_both, by_meaning, by_words
from deltamem_agents.evaluation.baselines.turns import fill, text_of, turns_of
from deltamem_agents.evaluation.cast import GROUPS, BaselineSettings, Cast
from deltamem_agents.evaluation.frame import Episode, Question
from deltamem_agents.evaluation.runner import run
from deltamem_agents.evaluation.tasks.capacity import Capacity
from deltamem_agents.evaluation.tasks.talk import exchange

TEXTS = ["The cat sleeps on the sofa.", "My boat is called Wanda.", "A dog barks at night."]


class Letters(Embeddings):
    """Counts of letters: a stand-in for likeness of texts."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(text.lower().count(chr(97 + i))) for i in range(26)] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def test_turns_are_ranked_by_words_by_meaning_and_by_both() -> None:
    words, size = by_words(TEXTS)
    assert words("What is my boat called?") == [1]
    assert words("zebra") == []
    assert size > 0
    meaning, nbytes = by_meaning(TEXTS, Letters())
    assert meaning("dog barks at night")[0] == 2
    assert nbytes == 3 * 26 * 4
    both, _ = by_both(TEXTS, Letters())
    assert both("Is the cat on the sofa?")[0] == 0


def test_a_prompt_is_filled_with_the_best_turns_in_their_order(tiny: Any) -> None:
    turns = turns_of([m for text in TEXTS for m in exchange(text, "Noted.")])
    assert [text_of(turn) for turn in turns] == [f"{text}\nNoted." for text in TEXTS]
    whole = fill(tiny, turns, [2, 0], "?", 400)
    assert [m["content"] for m in whole] == [TEXTS[0], "Noted.", TEXTS[2], "Noted."]
    budget = tiny.count_tokens([*turns[2], {"role": "user", "content": "?"}])
    assert fill(tiny, turns, [2, 0], "?", budget) == list(turns[2])
    assert fill(tiny, turns, [2, 0], "?", budget - 1) == []


def test_words_keep_the_mean_of_their_tokens_and_the_least_are_cut(tiny: Any) -> None:
    scores = words_by_score("ab c", [(0, 1), (1, 2), (2, 4)], [1.0, 3.0, 5.0])
    assert scores == [2.0, 5.0]
    told = exchange("keep drop keep", "drop")
    left = cut(told, [[0.9, 0.1, 0.8], [0.2]], 0.5)
    assert [m["content"] for m in left] == ["keep keep", ""]
    assert cut(told, [[0.9, 0.1, 0.8], [0.2]], 1.0) == []
    text = "the the the cat"
    scores = Surprise(tiny)(text)
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    from deltamem_agents.adapter import MemoryCall

    with torch.no_grad():
        logits = tiny.model(torch.tensor([ids]), delta_mem=MemoryCall(write=False)).logits[0]
    told_p = -torch.log_softmax(logits[:-1].float(), -1).gather(1, torch.tensor(ids)[1:, None])
    assert len(scores) == 4
    # The last word stands behind a blank: its letters are the last three tokens.
    assert scores[-1] == pytest.approx(told_p[-3:].mean().item(), abs=1e-4)


def test_a_memory_fades_unless_it_is_recalled() -> None:
    bank = Bank(Letters(), lambda text: text)
    bank.store("zzz")
    bank.store("aaa")
    for _ in range(4):
        bank.step("zz")
    kept, faded = bank.memories
    assert (kept.strength, faded.strength) == (5.0, 1.0)
    assert kept.retention(bank.now) == 1.0
    assert faded.retention(bank.now) == pytest.approx(math.exp(-4 / SCALE))
    assert bank.ranked("a")[0] == 1
    for _ in range(40):
        bank.step("zz")
    assert [memory.summary for memory in bank.memories] == ["zzz"]
    assert Bank(Letters(), str).ranked("a") == []


def test_extracted_summaries_keep_the_rarest_sentences() -> None:
    text = "It is so. It is so. Wanda sails tomorrow. It is so."
    assert by_extract(0.25)(text) == "Wanda sails tomorrow."


def test_an_mlp_learns_what_the_text_says_next() -> None:
    hidden = torch.eye(6)[[0, 1, 2, 3, 4, 5] * 4] + 0.01 * torch.randn(
        24, 6, generator=torch.Generator().manual_seed(0)
    )
    following = torch.tensor([1, 2, 3, 4, 5, 0] * 4)
    settings = MlpSettings(steps=80, neighbours=3)
    weights, tokens = neighbours_of(hidden, following, settings)
    assert torch.allclose(weights.sum(-1), torch.ones(24))
    assert bool((tokens == following[:, None]).all())
    mlp = train(hidden, following, 10, settings)
    assert bool((mlp(torch.eye(6)).argmax(-1) == following[:6]).all())


def test_all_baselines_answer_and_leave_the_model_as_it_was(tiny: Any) -> None:
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    flags = {name: p.requires_grad for name, p in tiny.model.named_parameters()}
    cast = Cast(tiny, BaselineSettings(embedder=Letters(), summaries="model"), bare=True)
    task = Capacity((2,), count=2)
    task.max_tokens = 4
    result = run(task, cast.choose("all"))
    assert {row.subject for row in result.rows} == set(GROUPS["all"])
    assert {row.answers for row in result.rows} == {4}
    costs = result.costs
    assert costs["memory"]["parameters"] > 0
    assert costs["context2lora"]["parameters"] > 0
    assert costs["context2lora"]["bytes"] == 4 * costs["context2lora"]["parameters"]
    assert costs["full"]["prompt_tokens"] > costs["memory"]["prompt_tokens"]
    assert costs["bm25"]["bytes"] > costs["full"]["bytes"] > costs["off"]["bytes"] == 0
    after = tiny.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: p.requires_grad for name, p in tiny.model.named_parameters()} == flags
    assert not any(m._forward_hooks for m in [tiny.model.get_output_embeddings()])


def test_a_lora_and_an_mlp_change_the_answers_while_they_are_held(tiny: Any) -> None:
    told = exchange("The code is 4711.", "Noted. The code is 4711.")
    question = Question("The code?")
    episode = Episode("e", told, (question,))
    cast = Cast(tiny, bare=True)
    with cast.subject("off").hold(episode, episode) as held:
        plain = held.likelihood(question, "Noted. The code is 4711.")[0]
    for name in ("context2lora", "mlp"):
        with cast.subject(name).hold(episode, episode) as held:
            learnt = held.likelihood(question, "Noted. The code is 4711.")[0]
        assert learnt > plain + 10, name
    with cast.subject("off").hold(episode, episode) as held:
        assert held.likelihood(question, "Noted. The code is 4711.")[0] == pytest.approx(plain)


def test_another_s_memory_is_never_one_s_own(tiny: Any) -> None:
    task = Capacity((1,), count=1)
    with pytest.raises(ConfigError, match="memory of another episode; got one episode"):
        run(task, Cast(tiny).choose("swapped"))


def test_nobody_of_another_name_is_asked(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="a subject is one of memory, reset"):
        Cast(tiny).choose("memory,oracle")
    with pytest.raises(ConfigError, match="summaries"):
        BaselineSettings(summaries="poems")
    assert [one.name for one in Cast(tiny).choose("memory, standard")][:2] == ["memory", "off"]
    assert np.isfinite(Cast(tiny).reader.parameters)
