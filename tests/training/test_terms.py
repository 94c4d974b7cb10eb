"""The objective: packed equals apart, recomputed equals kept, and every term does what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from deltamem_agents.errors import ConfigError
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.testing import tiny_model
from deltamem_agents.training.batches import Batch, Collator
from deltamem_agents.training.episodes import Planner
from deltamem_agents.training.reading import Reach, packable, read, teach
from deltamem_agents.training.terms import ObjectiveConfig, Outcome, contrast, episode_loss
from deltamem_agents.training.windows import EpisodeConfig
from tests.training.conftest import conversation


def batch_of(
    template: ChatTemplate, *turns: int, pack: int = 0, by_message: bool = False, **config: Any
) -> Batch:
    ends = frozenset([template.tokenizer.eos_token_id])
    settings = EpisodeConfig(**{"window": 120, "questions": 3, "teacher": True, **config})
    planner = Planner(template, settings, positions=1024, ends=ends)
    episodes = [
        planner.plan(conversation(count, system=bool(seed % 2), seed=seed))
        for seed, count in enumerate(turns)
    ]
    return Collator(pack=pack, by_message=by_message, alone=True)(episodes)


def gradients(model: Any, outcome: Outcome) -> dict[str, torch.Tensor]:
    model.zero_grad()
    outcome.loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    assert len(first) > 5
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4, msg=name)


ALL = ObjectiveConfig(contrast=0.01, kl=0.5, sparsity=3.0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("visible", ["turn", "window"])
def test_packed_windows_are_apart(template: ChatTemplate, visible: Any, attention: str) -> None:
    model = tiny_model()
    model.set_attn_implementation(attention)
    assert packable(model)
    found = []
    for pack, calls in ((0, 4), (2000, 1)):
        batch = batch_of(template, 3, 8, pack=pack, visible=visible)
        assert (len(batch["calls"]) == calls) == (pack > 0)
        outcome = episode_loss(model, batch, ALL)
        found.append((outcome, gradients(model, outcome)))
    (apart, first), (packed, second) = found
    torch.testing.assert_close(apart.loss, packed.loss, rtol=1e-5, atol=1e-5)
    assert apart.exact.tolist() == packed.exact.tolist()
    same(first, second)


@pytest.mark.parametrize("write", ["token", "message"])
def test_a_conversation_does_not_feel_the_others_in_its_batch(
    template: ChatTemplate, write: str
) -> None:
    model = tiny_model(adapter={"write": write})
    make = {"by_message": write == "message"}
    with torch.no_grad():
        together = read(model, batch_of(template, 3, 8, **make)["calls"])
        alone = read(model, batch_of(template, 3, **make)["calls"])
    mine = together.rows == 0
    assert together.answers[mine].tolist() == alone.answers.tolist()
    assert together.truth[mine].tolist() == alone.truth.tolist()
    torch.testing.assert_close(together.logits[mine], alone.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("write", ["token", "message"])
def test_recomputed_gradients_are_the_same(template: ChatTemplate, write: str) -> None:
    model = tiny_model(adapter={"write": write})
    batch = batch_of(template, 3, 6, by_message=write == "message")
    found = [
        gradients(model, episode_loss(model, batch, ObjectiveConfig(reach=Reach(recompute=flag))))
        for flag in (False, True)
    ]
    same(*found)


def test_truncation_cuts_the_gradient_and_not_the_memory(template: ChatTemplate) -> None:
    model = tiny_model()
    batch = batch_of(template, 8, questions=1)
    assert len(batch["calls"]) > 4
    full, short = (
        episode_loss(model, batch, ObjectiveConfig(reach=Reach(tokens=tokens)))
        for tokens in (0, 40)
    )
    assert full.loss.item() == short.loss.item()
    first, second = gradients(model, full), gradients(model, short)
    gaps = [float((first[n] - second[n]).norm() / first[n].norm()) for n in first]
    assert max(gaps) > 0.05
    assert Reach(tokens=40).flags(batch["calls"])[-2:] == [True, True]
    assert not any(Reach(tokens=40).flags(batch["calls"])[:-2])
    everything = episode_loss(model, batch, ObjectiveConfig(reach=Reach(tokens=10**6)))
    same(first, gradients(model, everything))


def test_gradients_flow_through_the_memory_alone(template: ChatTemplate) -> None:
    """What was only written, in calls without an answer, moves the loss of the answers."""
    model = tiny_model()
    batch = batch_of(template, 4, questions=1)
    values = [p for n, p in model.named_parameters() if "memory_v" in n]
    kept = read(model, batch["calls"])
    loss = torch.nn.functional.cross_entropy(kept.logits, kept.truth)
    through = torch.autograd.grad(loss, values)
    torch.manual_seed(0)
    step = [1e-3 * grad / grad.norm() for grad in through]
    with torch.no_grad():
        for value, move in zip(values, step, strict=True):
            value.add_(move)
        moved = read(model, batch["calls"])
        change = torch.nn.functional.cross_entropy(moved.logits, moved.truth) - loss
    expected = sum(float((a * b).sum()) for a, b in zip(through, step, strict=True))
    assert expected > 1e-4
    assert float(change) == pytest.approx(expected, rel=0.2)


def test_contrast_is_its_formula(template: ChatTemplate) -> None:
    model = tiny_model()
    batch = batch_of(template, 3, 5)
    with torch.no_grad():
        kept = read(model, batch["calls"])
        reset = read(model, batch["alone"], remember=False)
    entropy = [
        torch.nn.functional.cross_entropy(one.logits, one.truth, reduction="none")
        for one in (kept, reset)
    ]
    each = []
    for row in (0, 1):
        for answer in kept.answers[kept.rows == row].unique():
            here = (kept.rows == row) & (kept.answers == answer)
            keep, empty = (float(values[here].mean()) for values in entropy)
            x = (0.5 - (empty - keep)) / 0.5
            each.append(math.log1p(math.exp(x)) if x < 30 else x)
    assert len(each) == 6
    assert float(contrast(kept, reset, 0.5)) == pytest.approx(sum(each) / 6, rel=1e-4)


def test_the_control_without_memory_is_the_backbone_alone(template: ChatTemplate) -> None:
    model = tiny_model()
    batch = batch_of(template, 3, 5)
    with torch.no_grad():
        reset = read(model, batch["alone"], remember=False)
        bare = teach(model, batch["alone"])
        kept = read(model, batch["calls"])
    torch.testing.assert_close(reset.logits, bare.logits, rtol=1e-4, atol=1e-4)
    assert float((kept.logits - reset.logits).abs().max()) > 0.1


def test_kl_is_zero_where_the_memory_does_nothing_and_all_is_in_view(
    template: ChatTemplate,
) -> None:
    config = ObjectiveConfig(kl=1.0)
    view = {"visible": "window", "window": 1000}
    idle = tiny_model(adapter={"init": "zero"})
    seen = episode_loss(idle, batch_of(template, 3, **view), config)
    assert seen.terms["kl"].item() < 1e-5
    blind = episode_loss(idle, batch_of(template, 3), config)
    assert blind.terms["kl"].item() > 1e-3
    pulled = gradients(idle, blind)
    assert sum(float(g.norm()) for g in pulled.values()) > 0


def test_the_penalty_has_a_gradient_and_lowers_the_gate(template: ChatTemplate) -> None:
    model = tiny_model()
    batch = batch_of(template, 3, 5)
    gates = [p for n, p in model.named_parameters() if "beta_bias" in n]
    outcome = episode_loss(model, batch, ObjectiveConfig(sparsity=1.0))
    beta = float(outcome.terms["beta"])
    assert float(outcome.terms["sparsity"].detach()) == pytest.approx((beta - 0.05) ** 2, rel=1e-4)
    pulled = torch.autograd.grad(outcome.terms["sparsity"], gates)
    assert all(float(grad.sum()) > 0 for grad in pulled)
    higher = ObjectiveConfig(sparsity=1.0, sparsity_target=0.9)
    pulled = torch.autograd.grad(episode_loss(model, batch, higher).terms["sparsity"], gates)
    assert all(float(grad.sum()) < 0 for grad in pulled)


def test_a_term_of_weight_zero_is_not_there(template: ChatTemplate) -> None:
    outcome = episode_loss(tiny_model(), batch_of(template, 3), ObjectiveConfig())
    assert set(outcome.terms) == {"answer", "beta"}
    assert outcome.loss.item() == outcome.terms["answer"].item()
    full = episode_loss(tiny_model(), batch_of(template, 3), ALL)
    parts = full.terms
    total = parts["answer"] + 0.01 * parts["contrast"] + 0.5 * parts["kl"] + 3 * parts["sparsity"]
    torch.testing.assert_close(full.loss, total)


@pytest.mark.parametrize(
    "wrong", [{"contrast": -1.0}, {"kl": float("nan")}, {"margin": 0.0}, {"sparsity_target": 2.0}]
)
def test_a_wrong_weight_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ObjectiveConfig(**wrong)
