"""The episode objective on the Trainer of transformers, with accelerate, FSDP and DeepSpeed.

A batch is a list of calls that differ in length, all of which run before one backward pass. What is
saved is the adapter in this project's format, and a LoRA in PEFT's where there is one; never the
backbone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer
from transformers.trainer_callback import TrainerCallback

from deltamem_agents.adapter import adapter_config, adapter_parameters, save_adapter
from deltamem_agents.adapter.files import read as read_adapter
from deltamem_agents.adapter.layer import CHILD
from deltamem_agents.adapter.model import plain_path
from deltamem_agents.errors import FileFormatError, UnsupportedModelError
from deltamem_agents.training.batches import Batch, blank
from deltamem_agents.training.reading import unwrapped
from deltamem_agents.training.terms import ObjectiveConfig, Outcome, episode_loss

LORA = "lora"  # the folder of a LoRA, beside the adapter's files


class MemoryTrainer(Trainer):  # type: ignore[misc]
    """Trains a memory; see `transformers.Trainer` for everything else.

    The data sets hold `Episode`s and the collator is a `Collator`; pass
    `remove_unused_columns=False` among the arguments.

    Args:
        objective: see `ObjectiveConfig`.
        *args: of `Trainer`.
        **kwargs: of `Trainer`.

    Raises:
        UnsupportedModelError: an adapter that writes by message with what it cannot have.
    """

    loss_is_scaled_for_ga = False
    data_collator: Any

    def __init__(self, *args: Any, objective: ObjectiveConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.objective = objective
        self.figures: dict[str, _Figures] = defaultdict(_Figures)
        self._check()

    def _check(self) -> None:
        config = adapter_config(unwrapped(self.model))
        if config.write == "sentence":
            raise UnsupportedModelError(
                "an adapter that is trained on chats writes by token or by message",
                got=config.write,
                remedy='Train it with DeltaMemConfig(write="token") or "message".',
            )
        layers = any(
            getattr(self.args, name, False)
            for name in ("gradient_checkpointing", "activation_checkpointing")
        )
        if config.by_segment and (layers or self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UnsupportedModelError(
                "an adapter that writes by message is trained without layer checkpointing, FSDP "
                "and DeepSpeed",
                got=str(self.accelerator.distributed_type),
                remedy="Use Reach(recompute=True), and DDP for several devices.",
            )

    # ------------------------------------------------------------------ losses

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """The objective of one batch."""
        outcome = episode_loss(model, self._evened(inputs), self.objective)
        self.figures["train" if model.training else "eval"].add(outcome)
        return (outcome.loss, {"loss": outcome.loss}) if return_outputs else outcome.loss

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """The loss of one batch; what else is measured goes into the metrics."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer`'s, with the shares of exact answers with and without the memory."""
        self.figures["eval"] = _Figures()
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        found = self.figures["eval"].take(self.accelerator)
        output.metrics.update({f"{prefix}_{name}": value for name, value in found.items()})
        return output

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Batches that are also read without the memory, for the control."""
        kept = self.data_collator
        self.data_collator = replace(kept, alone=True)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = kept

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the terms and the share of exact answers since the last log."""
        if "loss" in logs:
            logs |= self.figures["train"].take(self.accelerator)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def _evened(self, batch: Batch) -> Batch:
        """The same number of calls on every device, where parameters are gathered in each."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            return batch
        return {
            name: [*calls, *[blank(calls[0])] * (self._most(len(calls)) - len(calls))]
            for name, calls in batch.items()
        }

    def _most(self, number: int) -> int:
        count = torch.tensor(number, device=self.accelerator.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(count, op=torch.distributed.ReduceOp.MAX)
        return int(count)

    # ------------------------------------------------------------------- files

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            save_trained(self.model, Path(output_dir or self.args.output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(model or self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            load_trained(self.model, Path(self.state.best_model_checkpoint))


class History(TrainerCallback):  # type: ignore[misc]
    """Keeps what was logged in `log.jsonl`, whole at every checkpoint and at the end."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.write(args, state)

    @staticmethod
    def write(args: Any, state: Any) -> None:
        if state.is_world_process_zero:
            lines = "".join(json.dumps(entry) + "\n" for entry in state.log_history)
            Path(args.output_dir, "log.jsonl").write_text(lines, encoding="utf-8")


class _Figures:
    """Sums of what was measured since they were last taken."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, outcome: Outcome) -> None:
        """Count one batch."""
        for name, value in outcome.terms.items():
            self._add(name, value.detach(), torch.ones_like(value))
        hits = {"exact": outcome.exact, "exact_reset": outcome.exact_reset}
        for name, hit in hits.items():
            if hit is not None:
                self._add(name, hit.sum().float(), hit.new_tensor(hit.numel(), dtype=torch.float))

    def _add(self, name: str, value: Tensor, count: Tensor) -> None:
        self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.counts[name] = self.counts.get(name, torch.zeros_like(count)) + count

    def take(self, accelerator: Any) -> dict[str, float]:
        """Means over all devices; the sums start again."""
        result = {}
        for name in sorted(self.sums):
            total, count = (accelerator.reduce(kept[name], "sum")
                            for kept in (self.sums, self.counts))  # fmt: skip
            result[name] = float(total / count)
        self.sums, self.counts = {}, {}
        return result


def save_trained(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapter to a folder, and a LoRA into its `lora/`.

    Args:
        model: the model.
        folder: made if it is not there.
        state: the model's whole state dict, where the model holds only a part of it.
    """
    inner = unwrapped(model)
    save_adapter(inner, folder, tensors=None if state is None else _from_state(inner, state))
    if isinstance(inner, PeftModel):
        inner.save_pretrained(folder / LORA, state_dict=state)
        (folder / LORA / "README.md").unlink(missing_ok=True)


def _from_state(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors of a state dict, by released name."""
    found = {}
    for key, tensor in state.items():
        path, mark, rest = key.partition(f".{CHILD}.")
        if mark:
            found[f"{plain_path(path)}.{rest.partition('.')[2]}"] = tensor
    wanted = [name for name, _ in adapter_parameters(model)]
    return {name: found[name] for name in wanted}


@torch.no_grad()
def load_trained(model: Any, folder: Path) -> None:
    """Put back what `save_trained` wrote.

    Raises:
        FileFormatError: it is damaged, or of another adapter.
    """
    inner = unwrapped(model)
    config, tensors, _ = read_adapter(folder)
    parameters = dict(adapter_parameters(inner))
    if config.canonical() != adapter_config(inner).canonical() or set(tensors) != set(parameters):
        raise FileFormatError(
            "a checkpoint holds the adapter that is trained",
            got=str(folder),
            remedy="Train with the same adapter settings, or into another folder.",
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
    if isinstance(inner, PeftModel):
        state = load_file(folder / LORA / "adapter_model.safetensors")
        set_peft_model_state_dict(inner, state)
