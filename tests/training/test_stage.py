"""A stage learns, freezes what it should, and goes on after a kill to the same result."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deltamem_agents.adapter import DeltaMemConfig, attach
from deltamem_agents.errors import FileFormatError
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training import stage as stage_module
from deltamem_agents.training.backbone import build_backbone
from deltamem_agents.training.curriculum import Curriculum
from deltamem_agents.training.objective import Weights, run_batch
from deltamem_agents.training.rows import Tokeniser
from deltamem_agents.training.stage import Stage, StageConfig, schedule
from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.twins import hold_twins, twins
from deltamem_agents.training.world import World

CONFIG = StageConfig(name="tiny", steps=8, tokens=300, warm_up=2)


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(ChatTemplate(build_tokenizer(0, conversations=300), "chatml"))


def make(tokeniser: Tokeniser, folder: Path, config: StageConfig = CONFIG) -> Stage:
    torch.manual_seed(1)
    model = build_backbone(
        len(tokeniser.template.tokenizer), hidden=32, layers=2, heads=2, key_value_heads=1, head=16,
        intermediate=48,
    )  # fmt: skip
    attach(model, DeltaMemConfig(rank=4, heads=2, update="no_lambda"))
    drawn = [
        Curriculum(World(seed, unheard=config.unheard), tokeniser, tokens=config.tokens)
        for seed in (1, 2)
    ]
    pairs = twins(tokeniser.template.tokenizer)
    return Stage(
        model, config, *drawn, folder, seed=3, strangers=torch.arange(2000, 2400), pairs=pairs
    )


def weights(stage: Stage) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in stage.model.named_parameters()}


def test_a_killed_stage_goes_on_to_the_same_weights(
    tokeniser: Tokeniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "SNAPSHOT_EVERY", 3)
    config = replace(CONFIG, unheard=0.9)
    whole = make(tokeniser, tmp_path / "whole", config)
    whole.run()

    class Killed(BaseException):
        pass

    def kill(step: int) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        make(tokeniser, tmp_path / "parts", config).run(kill)
    again = make(tokeniser, tmp_path / "parts", config)
    seen: list[int] = []
    again.run(seen.append)
    assert seen == [4, 5, 6, 7, 8]
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], value, rtol=0, atol=1e-6)


def test_the_optimizers_see_one_gradient_for_both_twins(
    tokeniser: Tokeniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, seen = make(tokeniser, tmp_path, replace(CONFIG, steps=3)), []
    table = stage.model.get_input_embeddings().weight  # type: ignore[operator]
    step = stage.optimizers[-1].step

    def watched() -> None:
        held = table.grad.clone()
        hold_twins(held, stage.pairs)  # type: ignore[arg-type]
        seen.append((held - table.grad).abs().max().item() / table.grad.abs().max().item())
        step()

    monkeypatch.setattr(stage.optimizers[-1], "step", watched)
    stage.run()
    assert len(seen) == 3
    assert max(seen) < 1e-5
    held = table.detach().clone()
    hold_twins(held, stage.pairs)  # type: ignore[arg-type]
    torch.testing.assert_close(held, table.detach())


def test_the_loss_falls_on_conversations_it_was_not_trained_on(
    tokeniser: Tokeniser, tmp_path: Path
) -> None:
    stage = make(tokeniser, tmp_path, replace(CONFIG, steps=100, tokens=500, hold=1.0))
    rows = Curriculum(World(77), tokeniser, tokens=800).batch(memory=True)
    before = run_batch(stage.model, rows, Weights(user=0.0), memory=True).loss.item()
    stage.run()
    after = run_batch(stage.model, rows, Weights(user=0.0), memory=True).loss.item()
    logged = [json.loads(x) for x in (tmp_path / "tiny.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [25, 50, 75, 100]
    assert before > math.log(len(tokeniser.template.tokenizer)) - 0.5  # as good as any guess
    assert after < before - 1.9


def test_what_is_foreseen_is_learnt_where_nothing_is_said(tokeniser: Tokeniser) -> None:
    model = make(tokeniser, Path("unused")).model
    rows = Curriculum(World(78), tokeniser, tokens=600).batch(memory=False)
    plain = run_batch(model, rows, Weights(user=0.0), memory=False)
    more = run_batch(model, rows, Weights(user=0.0), memory=False, foresee=1.0)
    assert set(more.figures) - set(plain.figures) == {"foresee"}
    assert more.loss != plain.loss
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        outcome = run_batch(model, rows, Weights(user=0.0), memory=False, foresee=4.0)
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    assert outcome.figures["foresee"] > more.figures["foresee"] + 0.3


def test_a_frozen_backbone_stays_bit_for_bit(tokeniser: Tokeniser, tmp_path: Path) -> None:
    stage = make(tokeniser, tmp_path, replace(CONFIG, train_backbone=False, memory_share=1.0))
    before = weights(stage)
    stage.run()
    after = weights(stage)
    frozen = [n for n in before if "delta_mem" not in n]
    moved = [n for n in before if "delta_mem" in n and not torch.equal(before[n], after[n])]
    assert len(frozen) > 20
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    assert len(moved) > 10


def test_a_snapshot_of_another_model_is_refused(tokeniser: Tokeniser, tmp_path: Path) -> None:
    make(tokeniser, tmp_path).run()
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FileFormatError, match="whole safetensors file"):
        make(tokeniser, tmp_path).run()


@pytest.mark.parametrize("what", ["seed", "words"])
def test_a_snapshot_of_another_seed_or_of_other_words_is_refused(
    tokeniser: Tokeniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    make(tokeniser, tmp_path).run()
    other = make(tokeniser, tmp_path)
    if what == "seed":
        other.seed = 4
    else:
        monkeypatch.setattr(stage_module, "fingerprint", lambda: "of a file that was changed")
    with pytest.raises(FileFormatError, match="same stage, seed and words"):
        other.run()


def test_the_schedule_rises_holds_and_falls() -> None:
    config = StageConfig(name="x", steps=100, warm_up=10, hold=0.5)
    assert schedule(0, config) == pytest.approx(0.1)
    assert schedule(30, config) == 1.0
    assert schedule(75, config) == pytest.approx(0.5)
    assert schedule(99, config) == pytest.approx(0.02)
