"""What training minimises, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltamem_agents.adapter import MemoryCache, MemoryCall
from deltamem_agents.adapter.model import adapter_config, layers_of
from deltamem_agents.adapter.store import WriteRecord
from deltamem_agents.training.by_message import hidden_by_message
from deltamem_agents.training.rows import Kind, Rows


@dataclass(frozen=True)
class Weights:
    """Weight of a token's cross-entropy by its kind.

    What a user says cannot be foreseen and template tokens are given, so they count little or
    nothing; the answered value and the decision to decline are what memory is for.
    """

    user: float = 0.05
    reply: float = 0.5
    confirmed_value: float = 1.0
    answered_value: float = 4.0
    decline: float = 2.0

    def table(self) -> Tensor:
        """Weights indexed by `Kind`."""
        return torch.tensor(
            [0.0, 0.0, self.user, self.user, self.reply, self.confirmed_value,
             self.answered_value, self.decline]
        )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One batch's loss, with gradient, and plain figures.

    Args:
        loss: weighted cross-entropy, a scalar.
        idle_write: mean beta of the tokens that carry no value, a scalar with gradient; None
            without memory, and where messages write.
        figures: token accuracies ("answer", "decline", "confirm", "reply") and mean betas. With
            memory, "answer" counts only rows whose blocks are single turns: from the memory alone.
    """

    loss: Tensor
    idle_write: Tensor | None
    figures: dict[str, float]


def run_batch(
    model: Any,
    rows: Rows,
    weights: Weights,
    *,
    memory: bool,
    share: float = 1.0,
    foresee: float = 0.0,
    strangers: Tensor | None = None,
) -> Outcome:
    """Run a batch of whole conversations and score the next token everywhere it counts.

    Args:
        model: a causal LM with an adapter attached.
        rows: the batch.
        weights: see `Weights`.
        memory: False switches the adapter off, for training the backbone alone.
        share: share of the user's tokens that are scored, drawn at random.
        foresee: weight of what is to be foreseen before a reply (`Rows.foreseen`). Nothing else is
            to be said at those tokens, the template's; and what they foresee, the first word of
            the reply can be chosen by.
        strangers: tokens that training seldom or never uses, [N]; see `embedded`.
    """
    hidden, records = forward(model, rows, memory=memory, strangers=strangers)
    targets, kinds = rows.ids[:, 1:], rows.kinds[:, 1:]
    scored = kinds >= Kind.REPLY
    if share > 0 and weights.user > 0:
        users = (kinds == Kind.USER) | (kinds == Kind.USER_VALUE)
        scored |= users & (torch.rand(kinds.shape) < share)
    logits = model.lm_head(hidden[:, :-1][scored]).float()
    truth, kind = targets[scored], kinds[scored]
    weight = weights.table()[kind]
    entropy = F.cross_entropy(logits, truth, reduction="none")
    total, weighed = (entropy * weight).sum(), weight.sum()
    alone = (rows.turns == 1)[:, None].expand_as(kinds)[scored] if memory else None
    figures = _accuracies(logits.detach().argmax(-1) == truth, kind, alone)
    if foresee > 0:
        place = rows.foreseen >= 0
        ahead = model.lm_head(hidden[place]).float()
        total = total + foresee * F.cross_entropy(ahead, rows.foreseen[place], reduction="sum")
        weighed = weighed + foresee * place.sum()
        hits = ahead.detach().argmax(-1) == rows.foreseen[place]
        figures["foresee"] = hits.float().mean().item()
    loss = total / weighed
    idle = None
    if records:
        idle, busy = write_strength(records, rows)
        figures |= {"beta idle": idle.item(), "beta value": busy.item()}
    return Outcome(loss, idle, figures)


def forward(
    model: Any, rows: Rows, *, memory: bool, strangers: Tensor | None = None
) -> tuple[Tensor, Sequence[WriteRecord]]:
    """Hidden states [B, T, d] of a batch, and the gates of each layer with their gradient.

    An adapter that writes by message has gates for messages, not for tokens: there are none then.
    """
    for layer in layers_of(model):
        layer.enable_adapters(memory)  # type: ignore[operator]
    if memory and adapter_config(model).by_segment:
        return hidden_by_message(model, rows), ()
    cache = MemoryCache(model, keep_kv=False) if memory else None
    extra = {"delta_mem": MemoryCall(write=rows.real, record=True)} if memory else {}
    output = model.model(
        inputs_embeds=embedded(model, rows, strangers),
        attention_mask=rows.attention_mask(),
        position_ids=rows.positions,
        past_key_values=cache,
        use_cache=memory,
        **extra,
    )
    return output.last_hidden_state, cache.records if cache is not None else ()


def embedded(model: Any, rows: Rows, strangers: Tensor | None) -> Tensor:
    """The tokens' vectors [B, T, d]; a word never heard has one drawn anew each time.

    It is drawn like the vectors of tokens that training seldom or never uses (normal, each
    coordinate with their mean and deviation), for a word that training has not met has such a one.
    """
    vectors: Tensor = model.model.embed_tokens(rows.ids)
    if strangers is None or not bool(rows.unheard.any()):
        return vectors
    with torch.no_grad():
        unused = model.model.embed_tokens.weight[strangers]
        drawn = torch.randn_like(vectors) * unused.std(0) + unused.mean(0)
    return torch.where(rows.unheard[..., None], drawn, vectors)


def write_strength(records: Sequence[WriteRecord], rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean beta of the tokens that carry no value and of those that do; both keep the gradient."""
    beta = torch.stack([record.beta.mean((-1, -2)) for record in records]).mean(0)
    kinds = rows.kinds
    value = (kinds == Kind.USER_VALUE) | (kinds == Kind.CONFIRMED_VALUE)
    idle = rows.real & ~value & (kinds != Kind.ANSWERED_VALUE)
    return _mean(beta, idle), _mean(beta, value)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    chosen = where.to(values.dtype)
    return (values * chosen).sum() / chosen.sum().clamp(min=1.0)


def _accuracies(hits: Tensor, kind: Tensor, alone: Tensor | None) -> dict[str, float]:
    named = {
        "answer": Kind.ANSWERED_VALUE, "decline": Kind.DECLINE,
        "confirm": Kind.CONFIRMED_VALUE, "reply": Kind.REPLY,
    }  # fmt: skip
    figures = {}
    for name, wanted in named.items():
        chosen = kind == wanted
        if alone is not None and name == "answer":
            chosen = chosen & alone
        if bool(chosen.any()):
            figures[name] = hits[chosen].float().mean().item()
    return figures
