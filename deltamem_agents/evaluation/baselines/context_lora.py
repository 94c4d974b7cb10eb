"""Context2LoRA: what was told is learnt by heart, by a LoRA of its own for each conversation.

The adapter is peft's, on the projections of attention and MLP; it is trained by next-token loss on
the told messages as the template renders them, then the question is asked with nothing in view, and
the adapter is taken off again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deltamem_agents.adapter import MemoryCall
from deltamem_agents.evaluation.frame import Cost, Episode
from deltamem_agents.evaluation.subjects import Asked
from deltamem_agents.runtime.engine import Engine

_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ALONE = threading.Lock()


@dataclass(frozen=True)
class LoraSettings:
    """How a conversation is learnt.

    Args:
        rank: of the LoRA.
        epochs: how often the text is gone through.
        rate: learning rate (AdamW).
        block: most tokens of a training step.
    """

    rank: int = 8
    epochs: int = 60
    rate: float = 5e-3
    block: int = 512


@dataclass(frozen=True)
class ContextLora:
    """A subject that trains on what it is told.

    Args:
        engine: answers, without a memory.
        settings: how it learns.
    """

    engine: Engine
    settings: LoraSettings = LoraSettings()
    name: str = "context2lora"
    title: str = "Context2LoRA"
    parallel: bool = False

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Asked]:
        """Train, lend, take off; see `frame.Subject`."""
        with _ALONE:
            began = time.perf_counter()
            model = self.engine.model
            before = {name: p.requires_grad for name, p in model.named_parameters()}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                layers = _inject(model, self.settings.rank)
            try:
                read = self._train(episode, layers)
                count = sum(p.numel() for p in layers)
                seconds = time.perf_counter() - began
                yield Asked(self.engine, None, lambda _: (), Cost(count, 4 * count, read, seconds))
            finally:
                _remove(model)
                for name, parameter in model.named_parameters():
                    parameter.requires_grad_(before[name])

    def _train(self, episode: Episode, parameters: list[nn.Parameter]) -> int:
        """Next-token loss on the whole told text; returns the tokens read."""
        ids = [i for part in self.engine.template.render(episode.told) for i in part.ids]
        size, device = self.settings.block, self.engine.runner.device
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        blocks = [torch.tensor([part], device=device) for part in parts if len(part) > 1]
        optimizer = torch.optim.AdamW(parameters, lr=self.settings.rate, weight_decay=0.0)
        for _ in range(self.settings.epochs):
            for block in blocks:
                call = MemoryCall(write=False)
                loss = self.engine.model(
                    input_ids=block, labels=block, use_cache=False, delta_mem=call
                ).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return self.settings.epochs * len(ids)


def _inject(model: Any, rank: int) -> list[nn.Parameter]:
    """Put a LoRA into the model's own modules; only it is trained."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_TARGETS))
    inject_adapter_in_model(config, model, adapter_name="told")
    model.requires_grad_(False)
    found = [p for name, p in model.named_parameters() if "lora_" in name]
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def _remove(model: Any) -> None:
    """Put the plain modules back where LoRA had wrapped them."""
    from peft.tuners.lora import LoraLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, module.get_base_layer())
    if "peft_config" in vars(model):
        del model.peft_config
