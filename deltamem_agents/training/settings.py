"""The settings of a training, all in one frozen value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from deltamem_agents.errors import ConfigError
from deltamem_agents.training.terms import ObjectiveConfig
from deltamem_agents.training.windows import EpisodeConfig


@dataclass(frozen=True)
class TrainingConfig:
    """How a memory is trained. The learning rate, its course and the warm-up are the paper's.

    Args:
        output: the folder of everything that is written.
        episode: how conversations are cut; see `EpisodeConfig`.
        objective: what is minimised; see `ObjectiveConfig`.
        pack: most tokens of windows packed into a row of one call; 0 switches packing off. Models
            that cannot keep packed windows apart (see `packable`) get one window a call.
        epochs: passes over the data.
        steps: optimizer steps, in place of epochs; 0 for epochs.
        batch: conversations a device and step.
        accumulate: batches whose gradients are added before a step.
        learning_rate: the highest.
        schedule: "cosine", "linear" or "constant", after the warm-up.
        warm_up: share of the steps.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        precision: "fp32", "bf16" or "fp16" (mixed; the memory is float32 always).
        seed: of the order of the data, and of whatever is random in training.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints (and between two evaluations).
        keep: how many checkpoints are kept.
        patience: stop after so many evaluations without gain, and take the best; 0 for never.
        least_gain: what counts as a gain of the evaluation's loss.
        tensorboard: write TensorBoard's files too.

    Raises:
        ConfigError: a value breaks its rule.
    """

    output: str | Path
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    pack: int = 2048
    epochs: float = 1.0
    steps: int = 0
    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warm_up: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0
    log_every: int = 10
    save_every: int = 100
    keep: int = 2
    patience: int = 0
    least_gain: float = 0.0
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is at least 1",
                    got=getattr(self, name),
                    remedy=f"Leave it out for the default, {getattr(type(self), name)}.",
                )
        for name in ("pack", "steps", "weight_decay", "patience", "least_gain", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} is at least 0",
                    got=getattr(self, name),
                    remedy=f"Leave it out for the default, {getattr(type(self), name)}.",
                )
        for name in ("learning_rate", "clip", "epochs"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(
                    f"{name} is finite and above 0",
                    got=value,
                    remedy=f"Leave it out for the default, {getattr(type(self), name)}.",
                )
        if not 0 <= self.warm_up < 1:
            raise ConfigError(
                "warm_up is a share of the steps, from 0 to below 1",
                got=self.warm_up,
                remedy=f"Leave it out for the default, {type(self).warm_up}.",
            )
        choices = {"schedule": ("cosine", "linear", "constant"),
                   "precision": ("fp32", "bf16", "fp16")}  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} is one of {allowed}",
                    got=getattr(self, name),
                    remedy=f"Leave it out for the default, {getattr(type(self), name)}.",
                )

    def plan(self) -> EpisodeConfig:
        """How conversations are cut, with the teacher's view where the objective asks for it."""
        return replace(self.episode, teacher=self.episode.teacher or self.objective.kl > 0)

    def as_dict(self) -> dict[str, Any]:
        """Every setting but the folder, as JSON values."""
        values = asdict(self)
        del values["output"]
        return values

    def arguments(self, evaluated: bool, count: int) -> dict[str, Any]:
        """The keyword arguments of `TrainingArguments`.

        Args:
            evaluated: whether there are conversations to evaluate on.
            count: of conversations to train on.
        """
        values: dict[str, Any] = {
            "output_dir": str(self.output), "remove_unused_columns": False,
            "num_train_epochs": self.epochs, "max_steps": self.steps or -1,
            "per_device_train_batch_size": min(self.batch, count),
            "per_device_eval_batch_size": self.batch,
            "gradient_accumulation_steps": self.accumulate,
            "learning_rate": self.learning_rate, "warmup_steps": self.warm_up,
            "lr_scheduler_type": self._course(), "weight_decay": self.weight_decay,
            "max_grad_norm": self.clip, "seed": self.seed,
            "bf16": self.precision == "bf16", "fp16": self.precision == "fp16",
            "logging_steps": self.log_every, "logging_first_step": True,
            "save_steps": self.save_every, "save_total_limit": self.keep,
            "report_to": ["tensorboard"] if self.tensorboard else [],
            "dataloader_pin_memory": torch.cuda.is_available(),
            "use_cpu": not torch.accelerator.is_available(),
            # Calls differ in number from device to device: nothing may be exchanged in them.
            "ddp_broadcast_buffers": False, "ddp_find_unused_parameters": False,
        }  # fmt: skip
        if evaluated:
            values |= {"eval_strategy": "steps", "eval_steps": self.save_every}
        if self.patience:
            values |= {
                "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
                "greater_is_better": False, "restore_callback_states_from_checkpoint": True,
            }  # fmt: skip
        return values

    def _course(self) -> str:
        return "constant_with_warmup" if self.schedule == "constant" else self.schedule
