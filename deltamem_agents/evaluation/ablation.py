"""What each choice of the adapter is worth: short trainings of it alone on a frozen backbone.

One cell is one configuration, trained with the same conversations, steps and seed as all others,
then measured by conversation recall with its control. A cell is a file; a run that was stopped goes
on with the cells, and within a cell with the steps, that are missing.

The built-in backbone was trained beside the base configuration's kind of memory, so differences
between kinds of memory lean its way; and a few hundred steps show how fast something is learnt, not
where it ends. Begun with a trained adapter (`start`), a cell shows what that one loses by the
choice and has regained after the steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from deltamem_agents.adapter import DeltaMemConfig, adapter_parameters, attach, save_adapter
from deltamem_agents.errors import ConfigError, FileFormatError
from deltamem_agents.evaluation.ablation_start import begin_with
from deltamem_agents.evaluation.recall import evaluate
from deltamem_agents.evaluation.report import Result
from deltamem_agents.evaluation.runner import write_json
from deltamem_agents.evaluation.tasks.recall import Setting
from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training.curriculum import Curriculum
from deltamem_agents.training.rows import Tokeniser
from deltamem_agents.training.stage import Stage, StageConfig
from deltamem_agents.training.world import World

BASE: Mapping[str, Any] = {"rank": 16, "heads": 4, "update": "no_lambda"}
FACTS = (1, 4)
CORRECTIONS = ("q", "k", "v", "o", "qk", "qo", "kv", "vo", "qkv", "qkvo")
WRITES: Mapping[str, Mapping[str, Any]] = {
    "TSW": {"heads": 1}, "SSW": {"heads": 1, "write": "message"}, "MSW": {},
}  # fmt: skip
UPDATES: Mapping[str, Mapping[str, Any]] = {
    "standard": {"update": "standard"},
    "standard, uncoupled": {"update": "standard", "couple_lambda": False},
    "lambda_outside": {"update": "lambda_outside"},
    "no_lambda": {},
}
AXES = ("corrections", "layers", "rank", "heads", "write", "update")


@dataclass(frozen=True)
class AblationSettings:
    """What all cells share.

    Args:
        backbone: a folder; None for the built-in one.
        start: an adapter's folder, whose weights a cell begins with as far as it has the same, see
            `begin_with`; the rest of it begins as ever. None: all of it does.
        steps: of each training.
        tokens: of a batch, about.
        conversations: of each line of the recall that is measured.
        window: visible tokens while it is.
        seed: of data and weights.
        axes: which choices are tried.
    """

    backbone: Path | None = None
    start: Path | None = None
    steps: int = 300
    tokens: int = 3000
    conversations: int = 50
    window: int = 256
    seed: int = 0
    axes: tuple[str, ...] = field(default=AXES)

    def __post_init__(self) -> None:
        if not set(self.axes) <= set(AXES):
            raise ConfigError(
                f"axes are of {', '.join(AXES)}",
                got=self.axes,
                remedy="Choose from these, or leave axes out for all.",
            )

    @property
    def folder(self) -> Path:
        """Of the backbone."""
        built_in = Path(str(resources.files("deltamem_agents"))) / "builtin" / "backbone"
        return self.backbone or built_in

    def as_dict(self) -> dict[str, Any]:
        """What decides a cell's figures, but for its configuration, as JSON values."""
        kept = {name: value for name, value in asdict(self).items() if name != "axes"}
        folders = {"backbone": self.backbone, "start": self.start}
        return kept | {name: folder and str(folder) for name, folder in folders.items()}


@dataclass(frozen=True)
class Cell:
    """One configuration.

    Args:
        axis: which choice it is one of.
        value: the choice.
        config: the adapter.
    """

    axis: str
    value: str
    config: DeltaMemConfig

    @property
    def name(self) -> str:
        """Names its file; equal configurations on two axes share it."""
        fields = self.config.canonical()
        layers = "all" if fields["layers"] is None else "-".join(map(str, fields["layers"]))
        parts = ["".join(fields["corrections"]), f"layers-{layers}", f"r{fields['rank']}",
                 f"h{fields['heads']}", fields["write"], fields["update"]]  # fmt: skip
        if not fields["couple_lambda"]:
            parts.append("uncoupled")
        return "_".join(parts)


def thirds(layers: int) -> dict[str, list[int] | None]:
    """First, middle and last third of the layers, and all of them."""
    first, second = round(layers / 3), round(2 * layers / 3)
    return {
        "first third": list(range(first)),
        "middle third": list(range(first, second)),
        "last third": list(range(second, layers)),
        "all": None,
    }


def cells(layers: int, axes: Sequence[str] = AXES) -> list[Cell]:
    """The table's cells, axis by axis; the base configuration is among each axis.

    Args:
        layers: of the backbone.
        axes: which choices.
    """
    return [
        Cell(axis, value, configured(**choice))
        for axis, value, choice in _choices(layers)
        if axis in axes
    ]


def _choices(layers: int) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for which in CORRECTIONS:
        yield "corrections", which, {"corrections": tuple(which)}
    for name, chosen in thirds(layers).items():
        yield "layers", name, {"layers": chosen}
    for rank in (4, 8, 16, 32):
        yield "rank", str(rank), {"rank": rank}
    for heads in (1, 2, 4, 8):
        yield "heads", str(heads), {"heads": heads}
    for name, choice in WRITES.items():
        yield "write", name, choice
    for name, choice in UPDATES.items():
        yield "update", name, choice


def configured(**choice: Any) -> DeltaMemConfig:
    """The base configuration with a choice; scale and width of the start follow the rank."""
    fields = {**BASE, **choice}
    width = fields["rank"] * fields["heads"]
    return DeltaMemConfig(alpha=float(fields["rank"]), init_width=width, **fields)


def run_cell(cell: Cell, settings: AblationSettings, folder: Path) -> dict[str, Any]:
    """Train and measure one cell, unless its file is there.

    Args:
        cell: which.
        settings: of the table.
        folder: gets `<name>.json`, and while it is trained a folder with its snapshot.

    Raises:
        FileFormatError: its file is of other settings.
    """
    path = folder / f"{cell.name}.json"
    head = {"settings": settings.as_dict(), "adapter": cell.config.canonical()}
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if {key: found.get(key) for key in head} != json.loads(json.dumps(head)):
            raise FileFormatError(
                "a table's cells are of the same settings",
                got=str(path),
                remedy="Take another folder, or delete this one.",
            )
        return found
    began = time.monotonic()
    model, tokenizer, stage = trained(cell.config, settings, folder / cell.name)
    engine = load_engine(model, tokenizer=tokenizer, context_window=settings.window)
    measured = evaluate(
        engine,
        count=settings.conversations,
        seed=settings.seed,
        settings=[Setting(facts, controls=True) for facts in FACTS],
        subjects=("memory", "reset"),
    )
    save_adapter(model, folder / cell.name / "adapter")
    result = {
        **head,
        "parameters": sum(p.numel() for _, p in adapter_parameters(model)),
        "level": stage.with_memory.level,
        "training": {name: round(value, 4) for name, value in sorted(stage.running.items())},
        "recall": _recall(measured),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(path, result)
    return result


def trained(
    config: DeltaMemConfig, settings: AblationSettings, folder: Path
) -> tuple[Any, Any, Stage]:
    """Train an adapter alone; from its snapshot, if there is one.

    Returns:
        model, tokenizer and the finished stage.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings.folder)
    model = AutoModelForCausalLM.from_pretrained(settings.folder, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        attach(model, config)
        if settings.start is not None:
            begin_with(model, config, settings.start)
        tokeniser = Tokeniser(ChatTemplate(tokenizer, "chatml"))
        with_memory, plain = (
            Curriculum(World(settings.seed + offset), tokeniser, tokens=settings.tokens,
                       promote=0.7)
            for offset in (1000, 1500)
        )  # fmt: skip
        stage = Stage(
            model,
            StageConfig(
                name="memory", steps=settings.steps, matrices=0.01, memory_share=1.0,
                train_backbone=False, warm_up=20,
            ),
            with_memory, plain, folder, settings.seed,
        )  # fmt: skip
        stage.run()
    return model.eval(), tokenizer, stage


def _recall(measured: Result) -> list[dict[str, Any]]:
    kept = ("facts", "subject", "exact", "interval", "answers")
    return [{name: row.as_dict()[name] for name in kept} for row in measured.rows]


def run_ablation(
    settings: AblationSettings,
    folder: Path,
    tick: Callable[[Cell, Mapping[str, Any]], None] = lambda cell, result: None,
) -> list[dict[str, Any]]:
    """Train and measure every cell; write `ablation.json` and `ablation.png`.

    Args:
        settings: of the table.
        folder: for all files.
        tick: called with each cell that is done.

    Returns:
        One dict a cell: axis, value, and what its file holds.
    """
    from transformers import AutoConfig

    from deltamem_agents.evaluation.ablation_report import plot

    layers = AutoConfig.from_pretrained(settings.folder).num_hidden_layers
    found = []
    for cell in cells(layers, settings.axes):
        result = run_cell(cell, settings, folder)
        found.append({"axis": cell.axis, "value": cell.value, "cell": cell.name, **result})
        tick(cell, result)
    write_json(folder / "ablation.json", {"settings": settings.as_dict(), "cells": found})
    plot(found, folder / "ablation.png")
    return found
