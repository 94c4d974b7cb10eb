"""One stage of training: batches from a curriculum, three optimizers, a snapshot now and then."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from deltamem_agents.errors import FileFormatError
from deltamem_agents.training.curriculum import LEVELS, Curriculum
from deltamem_agents.training.objective import Weights, run_batch
from deltamem_agents.training.phrasing import fingerprint
from deltamem_agents.training.snapshots import load_snapshot, save_snapshot
from deltamem_agents.training.twins import hold_twins

SNAPSHOT_EVERY = 100


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    Args:
        name: names its snapshot and its log.
        steps: batches.
        matrices: learning rate of matrices (Muon, orthogonalised momentum).
        vectors: learning rate of embeddings and norms (AdamW).
        gates: learning rate of the write gates (AdamW).
        memory_share: share of batches that run with memory; the rest trains the backbone alone.
        drills: share of all batches, taken from that rest, that are `Curriculum.drill`.
        foresee: see `run_batch`.
        train_backbone: False freezes the backbone.
        penalty: weight of the mean beta of tokens that carry no value, so that idle talk does not
            wear the memory down.
        hold: share of the steps at full learning rate before it falls linearly to 2 %.
        warm_up: steps of linear warm-up.
        tokens: tokens a batch, about.
        promote: running accuracy at which a level is left.
        level: first level of the batches with memory.
        plain_level: first level of the others.
        alike: the chance that several subjects of a conversation share an attribute, so that only
            the entity tells their values apart.
        instructed: share of the conversations that have a system prompt.
        unknown: the chance of a question about what was never told, before each other question.
        updates: the chance that a told subject is changed later.
        decline: weight of the decision to decline.
        thorough: see `Instructor`.
        unheard: see `World`.
    """

    name: str
    steps: int
    matrices: float = 0.012
    vectors: float = 4e-3
    gates: float = 1e-2
    memory_share: float = 0.6
    train_backbone: bool = True
    penalty: float = 1.0
    hold: float = 0.6
    warm_up: int = 40
    tokens: int = 3000
    promote: float = 0.7
    level: int = 0
    plain_level: int = 0
    alike: float = 0.4
    instructed: float = 0.0
    unknown: float = 0.1
    updates: float = 0.1
    decline: float = 2.0
    drills: float = 0.0
    foresee: float = 0.0
    thorough: bool = False
    unheard: float = 0.0


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], ...]:
    """Trainable parameters as (matrices, embeddings and norms, gates)."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    gates: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "beta" in name or "lambda" in name:
            gates.append(parameter)
        elif parameter.dim() == 2 and "embed" not in name:
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    return matrices, vectors, gates


def make_optimizers(model: nn.Module, config: StageConfig) -> list[Optimizer]:
    """Muon for matrices, AdamW for the rest."""
    matrices, vectors, gates = parameter_groups(model)
    decay = 0.01 if config.train_backbone else 0.0
    optimizers: list[Optimizer] = [
        torch.optim.Muon(
            matrices, lr=config.matrices, momentum=0.95, weight_decay=decay, ns_steps=3
        ),
        torch.optim.AdamW(gates, lr=config.gates, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    if vectors:
        optimizers.append(
            torch.optim.AdamW(vectors, lr=config.vectors, betas=(0.9, 0.97), weight_decay=0.0)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full"] = group["lr"]
    return optimizers


def schedule(step: int, config: StageConfig) -> float:
    """Factor on the learning rates: linear warm-up, constant, linear fall to 2 %."""
    rise = min(1.0, (step + 1) / config.warm_up)
    done = step / config.steps
    if done < config.hold:
        return rise
    return rise * max(0.02, (1.0 - done) / (1.0 - config.hold))


class Stage:
    """Runs a stage from its beginning or from its snapshot.

    Args:
        model: a causal LM with an adapter attached.
        config: see `StageConfig`.
        with_memory: draws the batches that run with memory.
        plain: draws the batches that train the backbone alone.
        folder: where the snapshot and the log (one JSON object a line) go.
        seed: decides which batches run with memory.
        strangers: see `run_batch`.
        pairs: of tokens whose vectors are held together; see `twins.hold_twins`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: StageConfig,
        with_memory: Curriculum,
        plain: Curriculum,
        folder: Path,
        seed: int,
        strangers: Tensor | None = None,
        pairs: Tensor | None = None,
    ) -> None:
        self.strangers, self.pairs = strangers, pairs
        self.model, self.config, self.folder = model, config, folder
        self.with_memory, self.plain = with_memory, plain
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(config.train_backbone or "delta_mem" in name)
        self.optimizers = make_optimizers(model, config)
        self.seed = seed
        self.choice = random.Random(seed)
        self.step = 0
        self.running: dict[str, float] = {}
        heard = Weights.user if config.train_backbone else 0.0
        self.weights = Weights(user=heard, decline=config.decline)

    @property
    def snapshot(self) -> Path:
        """The snapshot's file."""
        return self.folder / f"{self.config.name}.safetensors"

    def run(self, on_step: Callable[[int], None] | None = None) -> None:
        """Train to the end of the stage, with a progress bar."""
        if self.snapshot.exists():
            self._resume()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                   TimeRemainingColumn())  # fmt: skip
        with Progress(*columns) as progress:
            bar = progress.add_task(self.config.name, total=self.config.steps, completed=self.step)
            for step in self._steps():
                progress.update(bar, completed=step, description=self._summary())
                if on_step is not None:
                    on_step(step)

    def _steps(self) -> Iterator[int]:
        began = time.monotonic()
        while self.step < self.config.steps:
            self._one_step()
            self.step += 1
            if self.step % 25 == 0:
                self._log(time.monotonic() - began)
            if self.step % SNAPSHOT_EVERY == 0 or self.step == self.config.steps:
                save_snapshot(self.snapshot, self.model, self.optimizers, self._extra())
            yield self.step

    def _one_step(self) -> None:
        config = self.config
        factor = schedule(self.step, config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full"] * factor
        drawn = self.choice.random()
        memory, drill = drawn < config.memory_share, drawn >= 1.0 - config.drills
        curriculum = self.with_memory if memory else self.plain
        rows = curriculum.drill() if drill else curriculum.batch(memory=memory)
        share = 0.15 if config.train_backbone else 0.0
        with torch.autocast("cpu", torch.bfloat16):
            outcome = run_batch(
                self.model, rows, self.weights, memory=memory, share=share, foresee=config.foresee,
                strangers=self.strangers,
            )  # fmt: skip
        loss = outcome.loss
        if outcome.idle_write is not None:
            loss = loss + config.penalty * outcome.idle_write
        loss.backward()  # type: ignore[no-untyped-call]
        self._update()
        prefix = "memory" if memory else "drill" if drill else "plain"
        figures = {f"{prefix} {k}": v for k, v in outcome.figures.items()}
        self._average(figures | {f"{prefix} loss": outcome.loss.item()})
        if not drill and curriculum.report(outcome.figures.get("answer")):
            self._log(0.0)

    def _update(self) -> None:
        model: Any = self.model
        table = model.get_input_embeddings().weight
        if self.pairs is not None and table.grad is not None:
            hold_twins(table.grad, self.pairs)
        _, vectors, gates = parameter_groups(self.model)
        torch.nn.utils.clip_grad_norm_([*vectors, *gates], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.pairs is not None and table.requires_grad:
            hold_twins(table, self.pairs)  # AdamW steps coordinate by coordinate: apart a little

    def _average(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            old = self.running.get(name, value)
            self.running[name] = old + 0.06 * (value - old)

    def _summary(self) -> str:
        answer = self.running.get("memory answer", 0.0)
        visible = self.running.get("plain answer", 0.0)
        return (
            f"{self.config.name}: level {self.with_memory.level}/{len(LEVELS) - 1}, "
            f"from memory {answer:.2f}, in view {visible:.2f}"
        )

    def _log(self, seconds: float) -> None:
        line = {
            "step": self.step, "seconds": round(seconds, 1), "level": self.with_memory.level,
            "plain level": self.plain.level,
            **{k: round(v, 4) for k, v in sorted(self.running.items())},
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.config.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _made_with(self) -> dict[str, Any]:
        return {"config": asdict(self.config), "seed": self.seed, "words": fingerprint()}

    def _extra(self) -> dict[str, Any]:
        version, numbers, gauss = self.choice.getstate()
        return {
            **self._made_with(),
            "step": self.step, "running": self.running,
            "with_memory": self.with_memory.state(), "plain": self.plain.state(),
            "choice": [version, list(numbers), gauss],
        }  # fmt: skip

    def _resume(self) -> None:
        extra = load_snapshot(self.snapshot, self.model, self.optimizers)
        if any(extra.get(name) != value for name, value in self._made_with().items()):
            raise FileFormatError(
                "a stage goes on from a snapshot of the same stage, seed and words",
                got=str(self.snapshot),
                remedy="Delete it, or train in another folder.",
            )
        self.step, self.running = extra["step"], extra["running"]
        self.with_memory.restore(extra["with_memory"])
        self.plain.restore(extra["plain"])
        version, numbers, gauss = extra["choice"]
        self.choice.setstate((version, tuple(numbers), gauss))
