"""What training minimises: the answer's cross-entropy, and terms that may be added to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltamem_agents.errors import ConfigError
from deltamem_agents.training.batches import Batch
from deltamem_agents.training.reading import Reach, Scored, read, teach


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms; a term of weight 0 is not computed.

    Args:
        contrast: of softplus((m - (CE_reset - CE_keep)) / m) for each answer; CE_keep with the
            memory, CE_reset without. No gradient goes through CE_reset, so that nothing is won by
            getting worse without a memory.
        margin: m, in nats.
        kl: of KL(teacher || model) for each token of an answer; the teacher is the backbone without
            any adapter, with the whole conversation in view.
        sparsity: of (mean beta - sparsity_target)^2 over the tokens that are written.
        sparsity_target: see there.
        reach: how far gradients go back.

    Raises:
        ConfigError: a value breaks its rule.
    """

    contrast: float = 0.0
    margin: float = 0.01
    kl: float = 0.0
    sparsity: float = 0.0
    sparsity_target: float = 0.05
    reach: Reach = field(default_factory=Reach)

    def __post_init__(self) -> None:
        for name in ("contrast", "kl", "sparsity"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"ObjectiveConfig.{name} is at least 0",
                    got=getattr(self, name),
                    remedy="Pass 0 to leave this term out.",
                )
        if not self.margin > 0:
            raise ConfigError(
                "ObjectiveConfig.margin is above 0",
                got=self.margin,
                remedy=f"Leave it out for the default, {type(self).margin}.",
            )
        if not 0 <= self.sparsity_target <= 1:
            raise ConfigError(
                "ObjectiveConfig.sparsity_target is between 0 and 1",
                got=self.sparsity_target,
                remedy=f"Leave it out for the default, {type(self).sparsity_target}.",
            )


@dataclass(frozen=True)
class Outcome:
    """One batch.

    Args:
        loss: the weighted sum of the terms, with gradient.
        terms: "answer" (cross-entropy), "contrast", "kl", "sparsity", as far as they are on; and
            "beta", the mean write gate.
        exact: for each answer, whether every token of it is the likeliest one, given those before.
        exact_reset: the same without the memory, where it was read so; the control.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    exact: Tensor
    exact_reset: Tensor | None = None


def episode_loss(model: Any, batch: Batch, config: ObjectiveConfig) -> Outcome:
    """The paper's objective (eq. 17), -sum log p(y | Q, S^C), and the terms that are on.

    Args:
        model: a causal LM with an adapter attached.
        batch: of a `Collator`; with `alone` for the contrast, with `whole` for the teacher.
        config: see `ObjectiveConfig`.
    """
    kept = read(model, batch["calls"], reach=config.reach)
    terms = {"answer": _mean(_entropy(kept), kept.weights)}
    loss = terms["answer"]
    reset = None
    if config.contrast or "alone" in batch:
        with torch.no_grad():
            reset = read(model, batch["alone"], remember=False)
    if config.contrast:
        assert reset is not None
        terms["contrast"] = contrast(kept, reset, config.margin)
        loss = loss + config.contrast * terms["contrast"]
    if config.kl:
        terms["kl"] = teacher_kl(kept, teach(model, batch["whole"]))
        loss = loss + config.kl * terms["kl"]
    assert kept.written is not None
    if config.sparsity:
        terms["sparsity"] = (kept.written - config.sparsity_target) ** 2
        loss = loss + config.sparsity * terms["sparsity"]
    terms["beta"] = kept.written.detach()
    return Outcome(loss, terms, exact(kept), None if reset is None else exact(reset))


def contrast(kept: Scored, reset: Scored, margin: float) -> Tensor:
    """Mean over answers of softplus((m - (CE_reset - CE_keep)) / m), a scalar."""
    gain = _by_answer(_entropy(reset), kept) - _by_answer(_entropy(kept), kept)
    return F.softplus((margin - gain) / margin).mean()


def teacher_kl(kept: Scored, teacher: Scored) -> Tensor:
    """Weighted mean over tokens of KL(teacher || model), a scalar."""
    ours, theirs = kept.logits.log_softmax(-1), teacher.logits.log_softmax(-1)
    each = (theirs.exp() * (theirs - ours)).sum(-1)
    return _mean(each, kept.weights)


def exact(scored: Scored) -> Tensor:
    """For each answer, whether all its tokens are the likeliest, Bool[answers]."""
    wrong = (scored.logits.detach().argmax(-1) != scored.truth).float()
    return _by_answer(wrong, scored) == 0


def _entropy(scored: Scored) -> Tensor:
    return F.cross_entropy(scored.logits, scored.truth, reduction="none")


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()


def _by_answer(values: Tensor, scored: Scored) -> Tensor:
    """Means of values [N] over the tokens of each answer."""
    keys = scored.rows * (scored.answers.max() + 1) + scored.answers
    starts = torch.cat([keys.new_ones(1, dtype=torch.bool), keys[1:] != keys[:-1]])
    index = starts.cumsum(0) - 1
    sums = values.new_zeros(2, int(index[-1]) + 1)
    sums = sums.index_add(1, index, torch.stack([values, torch.ones_like(values)]))
    return sums[0] / sums[1]
