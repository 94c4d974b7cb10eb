"""Reading a batch's calls with a model: the memory goes from call to call, answers are scored.

The memory carries its gradient from the calls that write to those that answer. A long history costs
what backpropagation keeps of it; `Reach` says how that is bounded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deltamem_agents.adapter import MemoryCache, MemoryCall, adapter_config
from deltamem_agents.adapter.model import config_of, plan_of
from deltamem_agents.errors import ConfigError
from deltamem_agents.training.batches import Call
from deltamem_agents.training.windows import NOTHING


@dataclass(frozen=True)
class Reach:
    """How far gradients go back, and what is kept for them.

    Args:
        tokens: calls that lie at least so many tokens before every answer are read without a
            gradient (truncated backpropagation); 0 for no bound.
        recompute: run each call again in the backward pass, and keep only the memory between calls
            (checkpointed backpropagation).
    """

    tokens: int = 0
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ConfigError(
                "Reach.tokens is 0, for no bound, or more",
                got=self.tokens,
                remedy="Leave it out for no bound.",
            )

    def flags(self, calls: Sequence[Call]) -> list[bool]:
        """For each call, whether it carries a gradient."""
        flags, gap = [], 0
        for call in reversed(calls):
            if bool((call["labels"] != NOTHING).any()):
                gap = 0
                flags.append(True)
            else:
                flags.append(not self.tokens or gap < self.tokens)
                gap += call["ids"].shape[1]
        return flags[::-1]


class Scored(NamedTuple):
    """The answers' tokens, ordered by episode, answer and place.

    Args:
        logits: float32 [N, V].
        truth: the tokens that are right, [N].
        weights: [N].
        rows: which episode, [N].
        answers: which message of it, [N].
        written: mean beta of the tokens that were written, a scalar with gradient, or None.
    """

    logits: Tensor
    truth: Tensor
    weights: Tensor
    rows: Tensor
    answers: Tensor
    written: Tensor | None


class _Read(NamedTuple):
    memory: Tensor
    logits: Tensor | None
    beta: Tensor
    written: Tensor


def read(
    model: Any, calls: Sequence[Call], *, remember: bool = True, reach: Reach | None = None
) -> Scored:
    """Read a batch.

    Args:
        model: a causal LM with an adapter attached, wrapped or not (DDP, FSDP).
        calls: of a `Collator`.
        remember: False for the control: nothing is written, and every read is zero.
        reach: see `Reach`.
    """
    reach = reach or Reach()
    inner = unwrapped(model)
    ids = calls[0]["ids"]
    memory = torch.zeros(ids.shape[0], *plan_of(inner).shape, device=ids.device)
    pieces: list[tuple[Tensor, Call]] = []
    betas, counts = [], []
    for call, graph in zip(calls, reach.flags(calls), strict=True):
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            if reach.recompute and torch.is_grad_enabled():
                result = checkpoint(_read_call, model, call, memory, remember, use_reentrant=False)
            else:
                result = _read_call(model, call, memory, remember)
        if remember:
            memory = result.memory
            betas.append(result.beta)
            counts.append(result.written)
        if result.logits is not None:
            pieces.append((result.logits, call))
    mean = torch.stack(betas).sum() / torch.stack(counts).sum().clamp(min=1) if betas else None
    return _gathered(pieces, mean)


@torch.no_grad()
def teach(model: Any, calls: Sequence[Call]) -> Scored:
    """What the backbone without any adapter answers (for the `whole` calls: all in view)."""
    pieces = []
    with switched_off(unwrapped(model)):
        for call in calls:
            columns = _columns(call)
            width = call["ids"].shape[1]
            output = model(**_inputs(model, call, slice(0, width), columns), use_cache=False)
            if columns.numel():
                pieces.append((_in_order([_picked(output.logits, call, columns, columns)]), call))
    return _gathered(pieces, None)


def unwrapped(model: Any) -> Any:
    """The transformers or PEFT model inside DDP, FSDP or DeepSpeed."""
    while hasattr(model, "module") and not hasattr(model, "get_input_embeddings"):
        model = model.module
    return model


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Run the backbone alone, without memory and without LoRA."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer._disable_adapters = value


def packable(model: Any) -> bool:
    """Whether windows may share a call: plain attention under a mask, places told by rotation."""
    config = config_of(unwrapped(model))
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    rotary = getattr(config, "rope_parameters", None) is not None
    plain = kinds == {"full_attention"} and not getattr(config, "use_sliding_window", False)
    sliding = getattr(config, "sliding_window", None) and not hasattr(config, "layer_types")
    attention = getattr(config, "_attn_implementation", None)
    by_message = adapter_config(unwrapped(model)).by_segment
    return rotary and plain and not sliding and attention in ("sdpa", "eager") and not by_message


def _read_call(model: Any, call: Call, memory: Tensor, remember: bool) -> _Read:
    inner = unwrapped(model)
    by_message = bool(adapter_config(inner).by_segment)
    cache = MemoryCache(inner, memory=memory)
    columns = _columns(call)
    found: list[tuple[Tensor, Tensor]] = []
    beta, count = memory.new_zeros(()), memory.new_zeros(())
    start = 0
    for end in call["ends"].tolist():
        span, here = slice(start, end), columns[(columns >= start) & (columns < end)]
        output = model(
            **_inputs(model, call, span, here - start),
            past_key_values=cache,
            use_cache=True,
            delta_mem=_memory_call(call, span, by_message, remember),
        )
        found.append(_picked(output.logits, call, here, here - start))
        for record in cache.records if remember else ():
            counted = record.written * call["commits"][:, None]
            beta = beta + (record.beta.mean((-1, -2)) * counted).sum()
            count = count + counted.sum()
        start = end
    commits = call["commits"][:, None, None, None, None]
    after = torch.where(commits, cache.memory, memory) if remember else memory
    return _Read(after, _in_order(found) if columns.numel() else None, beta, count)


def _memory_call(call: Call, span: slice, by_message: bool, remember: bool) -> MemoryCall:
    real = call["blocks"][:, span] >= 0
    if not remember:
        return MemoryCall(write=False, token_mask=real)
    writes = call["writes"][:, span]
    return MemoryCall(
        segment_ids=0 if by_message else None, write=writes, record=True, token_mask=real
    )


def _inputs(model: Any, call: Call, span: slice, columns: Tensor) -> dict[str, Any]:
    """Arguments of a forward call over some columns, with all before them as its past."""
    real = call["blocks"] >= 0
    inputs: dict[str, Any] = {
        "input_ids": call["ids"][:, span],
        "position_ids": call["positions"][:, span],
        "attention_mask": real[:, : span.stop].long(),
    }
    if bool((call["blocks"] > 0).any()):
        inputs["attention_mask"] = _blocked(model, call["blocks"])
    inner = unwrapped(model)
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        inputs["logits_to_keep"] = columns if columns.numel() else 1
    return inputs


def _blocked(model: Any, blocks: Tensor) -> Tensor:
    """A mask [B, 1, T, T]: causal, inside one block; boolean for sdpa, additive for eager."""
    length = blocks.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril()
    seen = (causal & (blocks[:, :, None] == blocks[:, None, :]))[:, None]
    inner = unwrapped(model)
    if getattr(config_of(inner), "_attn_implementation", None) == "sdpa":
        return seen
    kind = inner.dtype
    mask = torch.zeros(seen.shape, dtype=kind, device=blocks.device)
    return mask.masked_fill_(~seen, torch.finfo(kind).min)


def _columns(call: Call) -> Tensor:
    """The columns in which something is learnt from, in any row."""
    return (call["labels"] != NOTHING).any(0).nonzero()[:, 0]


def _picked(logits: Tensor, call: Call, columns: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the answers' tokens in some columns, [n, V], and their places in the call, [n].

    Args:
        logits: of those columns, or of all that the model saw.
        call: the call.
        columns: which.
        held: where they are in what the model saw.
    """
    width = call["labels"].shape[1]
    marks = call["labels"][:, columns] != NOTHING
    if columns.numel() == 0:
        return logits[:0, 0].float(), columns
    if logits.shape[1] != columns.shape[0]:
        logits = logits[:, held]
    rows, where = marks.nonzero().unbind(1)
    return logits[marks].float(), rows * width + columns[where]


def _in_order(found: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Logits by row, and in it by place."""
    logits, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits[torch.argsort(places)]


def _gathered(pieces: Sequence[tuple[Tensor, Call]], written: Tensor | None) -> Scored:
    chosen = [call["labels"] != NOTHING for _, call in pieces]
    logits = torch.cat([logits for logits, _ in pieces])
    truth, weights, answers = (
        torch.cat([call[name][mask] for (_, call), mask in zip(pieces, chosen, strict=True)])
        for name in ("labels", "weights", "answers")
    )
    rows = torch.cat([mask.nonzero()[:, 0] for mask in chosen])
    order = torch.argsort(rows * (answers.max() + 1) + answers, stable=True)
    return Scored(logits[order], truth[order], weights[order], rows[order], answers[order], written)
