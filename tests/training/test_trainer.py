"""Training on the Trainer: it learns, what it writes is served, and a killed one goes on."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deltamem_agents.adapter import DeltaMemConfig, adapter_parameters, attach, load_adapter
from deltamem_agents.errors import ConfigError, FileFormatError, UnsupportedModelError
from deltamem_agents.runtime.loading import built_in, load_engine
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.testing import save_tiny, tiny_backbone, tiny_model
from deltamem_agents.training import (
    EpisodeConfig,
    ObjectiveConfig,
    Reach,
    TrainingConfig,
    prepare,
    train,
)
from deltamem_agents.training.chats import Chat, chat_from
from deltamem_agents.training.loop import last_checkpoint
from deltamem_agents.training.reading import packable
from tests.training.conftest import INSTRUMENTS, instrument

# PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

MEMORY = DeltaMemConfig(rank=4, heads=2, update="no_lambda")


def chats(count: int, seed: int = 0) -> list[Chat]:
    draw = random.Random(seed)
    return [chat_from(instrument(draw), f"made:{number}") for number in range(count)]


def settings(folder: Path, **more: Any) -> TrainingConfig:
    values = {"steps": 4, "batch": 2, "save_every": 2, "log_every": 1, "tensorboard": False,
              "learning_rate": 1e-2, **more}  # fmt: skip
    return TrainingConfig(folder, **values)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in adapter_parameters(model)}


def test_it_learns_and_what_it_learnt_is_served(tmp_path: Path) -> None:
    """Recall rises far above chance (one in six) and above the control without memory."""
    model, tokenizer = prepare(None, DeltaMemConfig(rank=16, heads=2, update="no_lambda"))
    config = settings(
        tmp_path / "out", steps=120, batch=8, save_every=120, log_every=5,
        episode=EpisodeConfig(questions=1),
    )  # fmt: skip
    result = train(model, ChatTemplate(tokenizer), chats(96), config, evaluation=chats(48, seed=1))
    losses = [line["loss"] for line in result.log if "loss" in line]
    assert losses[0] > 8.0
    assert losses[-1] < 0.5
    assert result.metrics["eval_exact"] > 0.8
    assert result.metrics["eval_exact_reset"] < 0.1

    engine = load_engine(built_in("backbone"), result.folder, context_window=30, low_water=0)
    right = 0
    for word in INSTRUMENTS:
        record = instrument(random.Random(0))["messages"]
        record[0]["content"] = f"My sister plays the {word}."
        *_, final = engine.generate(engine.read(None, record[:2]), record[:3])
        assert len(final.state.ledger.visible) == 2  # question and answer: the rest is memory
        right += final.message["content"] == f"The {word}"
    assert right >= 5


def test_the_backbone_stays_bit_for_bit(tmp_path: Path, template: ChatTemplate) -> None:
    model = tiny_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, template, chats(4), settings(tmp_path / "out"))
    after = dict(model.named_parameters())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert len(moved) > 10
    assert all("delta_mem" in name for name in moved)


def test_what_is_written_is_the_adapter(tmp_path: Path, template: ChatTemplate) -> None:
    model = tiny_model()
    result = train(model, template, chats(4), settings(tmp_path / "out", tensorboard=True))
    other = load_adapter(tiny_backbone(), result.folder)
    for name, value in weights(model).items():
        assert torch.equal(value, weights(other)[name])
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"deltamem_config.json", "deltamem_adapter.safetensors", "training.json",
                     "log.jsonl", "runs", "checkpoint-2", "checkpoint-4"}  # fmt: skip
    lines = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert {"answer", "beta", "exact", "grad_norm", "learning_rate"} <= set(lines[0])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (result.folder / "runs").iterdir()
    board = EventAccumulator(str(events)).Reload()
    assert [one.step for one in board.Scalars("train/exact")] == [1, 2, 3, 4]


class Killed(BaseException):
    """As if the process had died."""


@pytest.mark.parametrize("lora", [0, 2])
def test_an_interrupted_training_goes_on_to_the_same_result(
    tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch, lora: int
) -> None:
    backbone, _ = save_tiny(tmp_path / "tiny")

    def make() -> Any:
        return prepare(backbone, MEMORY, lora_rank=lora)[0]

    def config(name: str) -> TrainingConfig:
        return settings(tmp_path / name, steps=7, save_every=3, epochs=5)

    data = chats(6)
    whole = make()
    first = train(whole, template, data, config("whole"))

    from deltamem_agents.training import trainer

    step = trainer.MemoryTrainer.compute_loss
    calls = 0

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.MemoryTrainer, "compute_loss", dying)
    with pytest.raises(Killed):
        train(make(), template, data, config("parts"))
    half = tmp_path / "parts" / "checkpoint-5"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_st')  # killed while it was written
    assert last_checkpoint(tmp_path / "parts") == tmp_path / "parts" / "checkpoint-3"
    again = make()
    second = train(again, template, data, config("parts"), resume=True)
    assert (first.steps, second.steps) == (7, 7)
    assert calls == 6 + 4
    mine, theirs = dict(again.named_parameters()), dict(whole.named_parameters())
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-6)
    assert [x["loss"] for x in first.log if "loss" in x] == pytest.approx(
        [x["loss"] for x in second.log if "loss" in x], abs=1e-5
    )


def test_a_lora_is_trained_beside_and_written_for_peft(
    tmp_path: Path, template: ChatTemplate
) -> None:
    from peft import PeftModel

    backbone, _ = save_tiny(tmp_path / "tiny")
    model, _ = prepare(backbone, MEMORY, lora_rank=2)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in before)
    assert any("memory_q_proj" in name for name in before)
    config = settings(tmp_path / "out", objective=ObjectiveConfig(kl=0.1))
    result = train(model, template, chats(4), config)
    after = dict(model.named_parameters())
    assert all(after[name].requires_grad for name in before)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("lora_B" in name for name in moved)
    assert any("memory_q_proj" in name for name in moved)

    served = PeftModel.from_pretrained(tiny_backbone(), result.folder / "lora").merge_and_unload()
    load_adapter(served, result.folder)
    ids = torch.randint(0, 500, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            served(ids).logits, model.eval()(ids).logits, rtol=1e-4, atol=1e-4
        )


def test_an_adapter_is_trained_further(tmp_path: Path, template: ChatTemplate) -> None:
    backbone, adapter = save_tiny(tmp_path / "tiny")
    model, _ = prepare(backbone, adapter)
    first = weights(model)
    for name, value in weights(load_adapter(tiny_backbone(), adapter)).items():
        assert torch.equal(first[name], value)
    train(model, template, chats(4), settings(tmp_path / "out"))
    assert any(not torch.equal(first[name], value) for name, value in weights(model).items())


def test_it_stops_early_and_takes_the_best(tmp_path: Path, template: ChatTemplate) -> None:
    model = tiny_model()
    config = settings(
        tmp_path / "out", steps=40, save_every=2, patience=2, learning_rate=2.0, keep=1,
        warm_up=0.0,
    )  # fmt: skip
    result = train(model, template, chats(6), config, evaluation=chats(4, seed=1))
    losses = {line["step"]: line["eval_loss"] for line in result.log if "eval_loss" in line}
    assert result.steps < 40
    best = min(losses, key=losses.__getitem__)
    assert result.steps == best + 2 * 2
    assert result.metrics["eval_loss"] == pytest.approx(min(losses.values()), rel=1e-4)


OPTIONS: list[dict[str, Any]] = [
    {"accumulate": 2},
    {"schedule": "constant"},
    {"schedule": "linear"},
    {"warm_up": 0.5},
    {"weight_decay": 0.5},
    {"clip": 1e-4},
    {"precision": "bf16"},
    {"seed": 5},
    {"batch": 1},
    {"steps": 0, "epochs": 3.0},
    {"learning_rate": 1e-3},
    {"episode": EpisodeConfig(questions=1)},
    {"episode": EpisodeConfig(visible="window")},
    {"objective": ObjectiveConfig(contrast=0.1)},
    {"objective": ObjectiveConfig(contrast=0.1, margin=1.0)},
    {"objective": ObjectiveConfig(kl=1.0)},
    {"objective": ObjectiveConfig(sparsity=10.0)},
    {"objective": ObjectiveConfig(sparsity=10.0, sparsity_target=0.5)},
]


def test_every_option_changes_the_result(tmp_path: Path, template: ChatTemplate) -> None:
    results: list[dict[str, torch.Tensor]] = []
    for number, option in enumerate([{}, *OPTIONS]):
        model = tiny_model()
        train(model, template, chats(8), settings(tmp_path / str(number), **option))
        results.append(weights(model))
    for number, first in enumerate(results):
        for other, second in enumerate(results[number + 1 :], number + 1):
            gap = max(float((first[name] - second[name]).abs().max()) for name in first)
            assert gap > 1e-7, [([{}, *OPTIONS][i]) for i in (number, other)]


@pytest.mark.parametrize(
    "option", [{"pack": 0}, {"objective": ObjectiveConfig(reach=Reach(0, True))}]
)
def test_what_only_saves_work_changes_nothing(
    tmp_path: Path, template: ChatTemplate, option: dict[str, Any]
) -> None:
    results = []
    for number, more in enumerate([{}, option]):
        model = tiny_model()
        train(model, template, chats(8), settings(tmp_path / str(number), **more))
        results.append(weights(model))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-4)


def family(name: str) -> Any:
    """A tiny random model of a family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        name, vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=512,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("write", ["token", "message"])
@pytest.mark.parametrize(
    ("name", "packed"),
    [("llama", True), ("mistral", False), ("gemma2", False), ("phi3", True), ("gpt_neox", True)],
)
def test_other_families(
    tmp_path: Path, template: ChatTemplate, name: str, packed: bool, write: str
) -> None:
    model = attach(family(name), replace(MEMORY, write=write))
    assert packable(model) == (packed and write == "token")
    before = weights(model)
    result = train(model, template, chats(4), settings(tmp_path / "out", steps=2))
    assert result.steps == 2
    moved = [n for n, value in weights(model).items() if not torch.equal(before[n], value)]
    assert len(moved) > 8


def test_what_does_not_fit_is_refused(tmp_path: Path, template: ChatTemplate) -> None:
    config = settings(tmp_path / "out")
    with pytest.raises(ConfigError, match="early stopping needs"):
        train(tiny_model(), template, chats(4), replace(config, patience=1))
    train(tiny_model(), template, chats(4), config)
    with pytest.raises(ConfigError, match="a folder of its own"):
        train(tiny_model(), template, chats(4), config)
    with pytest.raises(ConfigError, match=r"batch: 2 -> 3.*seed: 0 -> 1"):
        train(tiny_model(), template, chats(4), replace(config, seed=1, batch=3), resume=True)
    with pytest.raises(ConfigError, match="data: "):
        train(tiny_model(), template, chats(4, seed=9), config, resume=True)
    weights_file = tmp_path / "out" / "checkpoint-4" / "deltamem_adapter.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-40])
    with pytest.raises(FileFormatError):
        train(tiny_model(), template, chats(4), config, resume=True)
    by_sentence = tiny_model(adapter={"write": "sentence"})
    with pytest.raises(UnsupportedModelError, match="by token or by message"):
        train(by_sentence, template, chats(4), settings(tmp_path / "other"))


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"pack": -1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
     {"warm_up": 1.0}, {"schedule": "random"}, {"precision": "int8"}, {"patience": -1}],
)  # fmt: skip
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainingConfig("out", **wrong)
