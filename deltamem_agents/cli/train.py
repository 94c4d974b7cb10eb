"""`deltamem train` and `deltamem data`: a memory for any model, and conversations to learn from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from deltamem_agents.cli.console import console, progress, quiet

data = typer.Typer(
    name="data", help="Make conversations, or bring them into our form.", no_args_is_help=True
)

_Data = Annotated[
    list[Path], typer.Option(help="JSON lines with messages; may be given several times.")
]
_Output = Annotated[Path, typer.Option(help="A new folder, or that of --resume.")]
_Model = Annotated[
    str | None, typer.Option(help="Backbone: folder or hub name; the built-in one without it.")
]
_Adapter = Annotated[
    str | None, typer.Option(help="Train this adapter further, instead of a new one.")
]
_EvalData = Annotated[
    list[Path] | None, typer.Option(help="Conversations that are not trained on.")
]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")]
_Rank = Annotated[int, typer.Option(help="Of a new adapter.")]
_Heads = Annotated[int, typer.Option(help="State heads a layer.")]
_Alpha = Annotated[float, typer.Option(help="Corrections are scaled by alpha / rank.")]
_Corrections = Annotated[str, typer.Option(help="Of q, k, v, o.")]
_Layers = Annotated[str, typer.Option(help="Such as 0,1,2; all without it.")]
_Update = Annotated[str, typer.Option(help="standard, lambda_outside or no_lambda.")]
_Write = Annotated[str, typer.Option(help="token or message.")]
_LoraRank = Annotated[int, typer.Option(help="A LoRA beside the memory; 0 for none.")]
_Template = Annotated[str | None, typer.Option(help="As for serving.")]
_ReadOnly = Annotated[
    str, typer.Option(help="What is not written: of system,user,assistant,tool,template.")
]
_Window = Annotated[int | None, typer.Option(help="Visible tokens, as served.")]
_LowWater = Annotated[int | None, typer.Option(help="As served.")]
_Visible = Annotated[
    str, typer.Option(help="An answer sees its own 'turn', or the served 'window'.")
]
_Thinking = Annotated[bool | None, typer.Option(help="The template's enable_thinking.")]
_Questions = Annotated[int, typer.Option(help="Most answers learnt an episode.")]
_Contrast = Annotated[float, typer.Option(help="Weight of the contrast.")]
_Kl = Annotated[float, typer.Option(help="Weight of KL to the full-context teacher.")]
_Sparsity = Annotated[float, typer.Option(help="Weight of the write gate's penalty.")]
_Backprop = Annotated[
    int, typer.Option(help="Tokens before an answer that carry gradients; 0 for all.")
]
_Recompute = Annotated[
    bool, typer.Option("--recompute", help="Checkpointed backpropagation: less memory.")
]
_Pack = Annotated[int, typer.Option(help="Tokens of windows in one row; 0 for one.")]
_Epochs = Annotated[float, typer.Option(help="Passes over the data.")]
_Steps = Annotated[int, typer.Option(help="In place of epochs.")]
_Batch = Annotated[int, typer.Option(help="Conversations a device and step.")]
_Accumulate = Annotated[int, typer.Option(help="Batches a step.")]
_LearningRate = Annotated[float, typer.Option(help="The highest.")]
_Schedule = Annotated[str, typer.Option(help="cosine, linear or constant.")]
_WarmUp = Annotated[float, typer.Option(help="Share of the steps.")]
_WeightDecay = Annotated[float, typer.Option(help="Of AdamW.")]
_Clip = Annotated[float, typer.Option(help="Largest norm of the gradient.")]
_Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
_Seed = Annotated[int, typer.Option(help="Of weights and order.")]
_LogEvery = Annotated[int, typer.Option(help="Steps between lines of the log.")]
_SaveEvery = Annotated[int, typer.Option(help="Steps between checkpoints.")]
_Keep = Annotated[int, typer.Option(help="Checkpoints that are kept.")]
_Patience = Annotated[
    int, typer.Option(help="Stop after so many evaluations without gain; 0 for never.")
]
_Tensorboard = Annotated[bool, typer.Option(help="Write TensorBoard's files.")]


def train(
    data: _Data,
    output: _Output,
    model: _Model = None,
    adapter: _Adapter = None,
    eval_data: _EvalData = None,
    resume: _Resume = False,
    rank: _Rank = 8,
    heads: _Heads = 1,
    alpha: _Alpha = 16.0,
    corrections: _Corrections = "q,o",
    layers: _Layers = "",
    update: _Update = "standard",
    write: _Write = "token",
    lora_rank: _LoraRank = 0,
    template: _Template = None,
    read_only: _ReadOnly = "",
    window: _Window = None,
    low_water: _LowWater = None,
    visible: _Visible = "turn",
    thinking: _Thinking = None,
    questions: _Questions = 4,
    contrast: _Contrast = 0.0,
    kl: _Kl = 0.0,
    sparsity: _Sparsity = 0.0,
    backprop: _Backprop = 0,
    recompute: _Recompute = False,
    pack: _Pack = 2048,
    epochs: _Epochs = 1.0,
    steps: _Steps = 0,
    batch: _Batch = 8,
    accumulate: _Accumulate = 1,
    learning_rate: _LearningRate = 2e-4,
    schedule: _Schedule = "cosine",
    warm_up: _WarmUp = 0.1,
    weight_decay: _WeightDecay = 0.0,
    clip: _Clip = 1.0,
    precision: _Precision = "fp32",
    seed: _Seed = 0,
    log_every: _LogEvery = 10,
    save_every: _SaveEvery = 100,
    keep: _Keep = 2,
    patience: _Patience = 0,
    tensorboard: _Tensorboard = True,
) -> None:
    """Train a memory for a model on conversations, and write the adapter to a folder."""
    _train(dict(locals()))


def _train(given: dict[str, Any]) -> None:
    from deltamem_agents.adapter import DeltaMemConfig
    from deltamem_agents.runtime.template import ChatTemplate
    from deltamem_agents.training import (
        EpisodeConfig,
        ObjectiveConfig,
        Reach,
        TrainingConfig,
        prepare,
        read_chats,
    )
    from deltamem_agents.training import train as run

    reach = Reach(tokens=given["backprop"], recompute=given["recompute"])
    config = TrainingConfig(
        episode=_made(EpisodeConfig, given),
        objective=_made(ObjectiveConfig, given, reach=reach),
        **_shared(TrainingConfig, given),
    )
    memory = given["adapter"] or _made(
        DeltaMemConfig,
        {name: given[name] for name in ("rank", "heads", "alpha", "update", "write")},
        corrections=_list(given["corrections"]),
        layers=_layers(given["layers"]),
    )
    policy = _policy(_list(given["read_only"]))
    chats, held = read_chats(given["data"]), read_chats(given["eval_data"] or ())
    out = console()
    quiet()
    dtype = "bfloat16" if config.precision == "bf16" else "float32"
    model, tokenizer = prepare(
        given["model"], memory, lora_rank=given["lora_rank"], dtype=dtype, seed=config.seed
    )
    with progress(out) as bar:
        task = bar.add_task("cutting conversations", total=len(chats) + len(held))
        result = run(
            model, ChatTemplate(tokenizer, given["template"], policy=policy), chats, config,
            evaluation=held, resume=given["resume"], tick=lambda: bar.advance(task),
            ready=bar.stop,
        )  # fmt: skip
    out.print(f"{result.folder} holds the adapter after {result.steps} steps.")
    if result.metrics:
        out.print(
            f"Evaluation: loss {result.metrics['eval_loss']:.3f}, exact answers "
            f"{result.metrics['eval_exact']:.3f}, without the memory "
            f"{result.metrics['eval_exact_reset']:.3f}"
        )


def _shared(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of a settings class."""
    return {field.name: given[field.name] for field in fields(kind) if field.name in given}


def _made(kind: Any, given: dict[str, Any], **more: Any) -> Any:
    return kind(**{**_shared(kind, given), **more})


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _layers(text: str) -> tuple[int, ...] | None:
    from deltamem_agents.errors import ConfigError

    try:
        return tuple(int(part) for part in _list(text)) or None
    except ValueError as error:
        raise ConfigError(
            "layers are numbers such as 0,1,2",
            got=text,
            remedy="Leave --layers out for all of them.",
        ) from error


def _policy(read_only: tuple[str, ...]) -> Any:
    from deltamem_agents.errors import ConfigError
    from deltamem_agents.runtime.template import WritePolicy

    names = [field.name for field in fields(WritePolicy)]
    if unknown := [name for name in read_only if name not in names]:
        raise ConfigError(
            f"what is only read is of {', '.join(names)}",
            got=unknown,
            remedy="Choose from these, with commas.",
        )
    return WritePolicy(**dict.fromkeys(read_only, False))


@data.command()
def build(
    output: Annotated[Path, typer.Argument(help="A new file.")],
    conversations: Annotated[int, typer.Option(help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same file.")] = 0,
    split: Annotated[str, typer.Option(help="train, or test: held out of train.")] = "train",
    values: Annotated[str, typer.Option(help="known, invented or all.")] = "all",
    facts: Annotated[tuple[int, int], typer.Option(help="Fewest and most.")] = (1, 4),
    chats: Annotated[int, typer.Option(help="Most turns of talk among the facts.")] = 4,
    tail: Annotated[int, typer.Option(help="Most turns of talk before the questions.")] = 12,
    far: Annotated[float, typer.Option(help="Share of conversations with such a tail.")] = 0.33,
    questions: Annotated[int, typer.Option(help="Most questions at the end.")] = 4,
    near: Annotated[float, typer.Option(help="Chance of a question right after a fact.")] = 0.15,
    unknown: Annotated[float, typer.Option(help="Share of questions never answered.")] = 0.25,
    updates: Annotated[float, typer.Option(help="Chance that a fact is revised.")] = 0.2,
    tools: Annotated[float, typer.Option(help="Share of facts from a tool's result.")] = 0.1,
    alike: Annotated[float, typer.Option(help="Chance of subjects with one attribute.")] = 0.4,
) -> None:
    """Make up conversations with facts, revisions, tool results, talk and questions."""
    given = dict(locals())
    from deltamem_agents.training.formats import write_records
    from deltamem_agents.training.generate import DataConfig
    from deltamem_agents.training.generate import conversations as drawn

    count = write_records(output, drawn(_made(DataConfig, given)))
    console().print(f"{output} holds {count} conversations.")


@data.command()
def convert(
    format: Annotated[str, typer.Argument(help="taskmaster or locomo.")],
    source: Annotated[Path, typer.Argument(help="The published JSON file.")],
    output: Annotated[Path, typer.Argument(help="A new file.")],
    questions: Annotated[int | None, typer.Option(help="Most questions a record.")] = None,
) -> None:
    """Bring dialogues of another data set into our form."""
    from deltamem_agents.errors import ConfigError
    from deltamem_agents.training.formats import from_locomo, from_taskmaster, write_records

    readers: dict[str, Any] = {"taskmaster": from_taskmaster, "locomo": from_locomo}
    if format not in readers:
        raise ConfigError(
            f"format is one of {', '.join(readers)}", got=format, remedy="Choose one of these."
        )
    options = {} if questions is None else {"questions": questions}
    count = write_records(output, readers[format](source, **options))
    console().print(f"{output} holds {count} conversations.")
