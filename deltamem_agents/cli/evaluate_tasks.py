"""The commands of `deltamem eval` for generated tasks and for published data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_agents.cli.console import console, progress
from deltamem_agents.cli.evaluate import (
    Adapter,
    Compressor,
    Count,
    Limit,
    Model,
    Run,
    Save,
    Seed,
    Subjects,
    Summaries,
    Window,
    Workers,
    about,
    evaluation,
    numbers,
    perform,
)

if TYPE_CHECKING:
    from deltamem_agents.evaluation.cast import Cast
    from deltamem_agents.evaluation.frame import Task

Style = Annotated[str, typer.Option(help="Told in the built-in model's world, or plain.")]
Data = Annotated[Path, typer.Argument(help="The file as it was published.")]
Lengths = Annotated[str, typer.Option(help="Tokens, about, such as 100,400.")]


@evaluation.command()
def mqar(
    sizes: Annotated[str, typer.Option(help="Pairs told, such as 1,4,16.")] = "1,2,4,8,16,32",
    forgetting: Annotated[bool, typer.Option(help="Half of the keys get another value.")] = False,
    style: Style = "world",
    count: Count = 50,
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapter = None,
    window: Annotated[int, typer.Option(min=1, help="Tokens that baselines may show.")] = 128,
    subjects: Subjects = "standard",
    save: Save = None,
    workers: Workers = 8,
    compressor: Compressor = None,
    summaries: Summaries = "",
) -> None:
    """How many key-value pairs a state holds alone, and overwrites with --forgetting."""
    from deltamem_agents.evaluation.tasks.capacity import Capacity

    def make(cast: Cast) -> Task:
        return Capacity(numbers(sizes), count=count, forgetting=forgetting, style=style, seed=seed)

    perform(
        Run(model, adapter, window, subjects, save, workers, compressor, summaries, bare=True), make
    )


@evaluation.command()
def mixed(
    count: Count = 50,
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapter = None,
    window: Annotated[int, typer.Option(min=1, help="Visible tokens.")] = 256,
    subjects: Subjects = "memory,store,both",
    save: Save = None,
) -> None:
    """Memory alone, exact store alone and both: told, revised, never told, small talk."""
    from deltamem_agents.evaluation.tasks.mixed import Mixed

    perform(
        Run(model, adapter, window, subjects, save, workers=8),
        lambda cast: Mixed(cast.reader, count=count, seed=seed),
    )


@evaluation.command()
def needle(
    lengths: Lengths = "100,200,400,800",
    needles: Annotated[int, typer.Option(min=1, help="Pairs hidden; one is asked.")] = 1,
    style: Style = "world",
    count: Count = 20,
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapter = None,
    window: Annotated[int, typer.Option(min=1, help="Visible tokens.")] = 96,
    subjects: Subjects = "standard",
    save: Save = None,
    workers: Workers = 8,
    compressor: Compressor = None,
    summaries: Summaries = "",
) -> None:
    """A needle at several depths of generated noise, in the manner of RULER."""
    from deltamem_agents.evaluation.tasks.needle import Needle

    def make(cast: Cast) -> Task:
        return Needle(numbers(lengths), needles=needles, count=count, style=style, seed=seed)

    perform(Run(model, adapter, window, subjects, save, workers, compressor, summaries), make)


@evaluation.command()
def variables(
    lengths: Lengths = "100,200,400,800",
    hops: Annotated[int, typer.Option(min=1, help="Assignments behind the first.")] = 2,
    chains: Annotated[int, typer.Option(min=1, help="Chains hidden; one is asked.")] = 1,
    count: Count = 20,
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapter = None,
    window: Window = None,
    subjects: Subjects = "standard",
    save: Save = None,
    workers: Workers = 8,
) -> None:
    """Variable tracking in generated noise, in the manner of RULER."""
    from deltamem_agents.evaluation.tasks.needle import Variables

    perform(
        Run(model, adapter, window, subjects, save, workers),
        lambda cast: Variables(numbers(lengths), hops=hops, chains=chains, count=count, seed=seed),
    )


@evaluation.command()
def ttl(
    data: Annotated[
        Path | None, typer.Argument(help="MemoryAgentBench's file; without, generated lessons.")
    ] = None,
    count: Count = 50,
    limit: Limit = None,
    seed: Seed = 0,
    model: Model = None,
    adapter: Adapter = None,
    window: Window = None,
    subjects: Subjects = "standard",
    save: Save = None,
    workers: Workers = 8,
    compressor: Compressor = None,
    summaries: Summaries = "",
) -> None:
    """Test-time learning: what was taught, applied to new cases after it has left the window."""
    from deltamem_agents.evaluation.tasks.agentbench import AgentBench
    from deltamem_agents.evaluation.tasks.learning import Learning

    def make(cast: Cast) -> Task:
        if data is None:
            return Learning(count=count, seed=seed)
        return AgentBench([data], splits=("TTL",), limit=limit)

    view = 96 if data is None and window is None else window
    perform(Run(model, adapter, view, subjects, save, workers, compressor, summaries), make)


@evaluation.command()
def locomo(
    data: Data,
    likelihood: Annotated[
        bool, typer.Option(help="For small models: log-probability of the gold answer.")
    ] = False,
    dialogues: Annotated[int | None, typer.Option(help="Only the first.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most questions of a dialogue.")] = None,
    model: Model = None,
    adapter: Adapter = None,
    window: Window = None,
    subjects: Annotated[str, typer.Option(help="Who is asked.")] = "",
    save: Save = None,
    workers: Workers = 8,
    compressor: Compressor = None,
    summaries: Summaries = "",
) -> None:
    """LoCoMo: official F1, or what the state adds to the gold answer's log-probability."""
    from deltamem_agents.evaluation.tasks.locomo import LIKELIHOOD, LoCoMo

    names = subjects or (",".join(LIKELIHOOD) if likelihood else "standard")
    perform(
        Run(model, adapter, window, names, save, workers, compressor, summaries),
        lambda cast: LoCoMo(data, limit=limit, dialogues=dialogues, likelihood=likelihood),
    )


def _published(name: str, text: str, make: Callable[[Path, int | None], Task]) -> None:
    """Add the command of a data set that needs no options of its own."""

    def function(
        data: Data,
        limit: Limit = None,
        model: Model = None,
        adapter: Adapter = None,
        window: Window = None,
        subjects: Subjects = "standard",
        save: Save = None,
        workers: Workers = 8,
        compressor: Compressor = None,
        summaries: Summaries = "",
    ) -> None:
        perform(
            Run(model, adapter, window, subjects, save, workers, compressor, summaries),
            lambda cast: make(data, limit),
        )

    evaluation.command(name, help=text)(function)


def _agentbench(data: Path, limit: int | None) -> Task:
    from deltamem_agents.evaluation.tasks.agentbench import AgentBench

    return AgentBench([data], limit=limit)


def _hotpotqa(data: Path, limit: int | None) -> Task:
    from deltamem_agents.evaluation.tasks.hotpot import HotpotQA

    return HotpotQA(data, limit=limit)


def _ifeval(data: Path, limit: int | None) -> Task:
    from deltamem_agents.evaluation.tasks.ifeval import IFEval

    return IFEval(data, limit=limit)


def _gpqa(data: Path, limit: int | None) -> Task:
    from deltamem_agents.evaluation.tasks.gpqa import GPQA

    return GPQA(data, limit=limit)


_published("memoryagentbench", "MemoryAgentBench, all splits of a file.", _agentbench)
_published("hotpotqa", "HotpotQA: exact match and F1.", _hotpotqa)
_published("ifeval", "IFEval: strict and loose.", _ifeval)
_published("gpqa", "GPQA-Diamond.", _gpqa)


@evaluation.command()
def paper(
    model: Annotated[str, typer.Option(help="Folder or hub name.")],
    adapter: Annotated[str, typer.Option(help="Folder or hub name.")],
    data: Annotated[Path, typer.Option(help="Folder with the data sets as published.")],
    save: Annotated[Path, typer.Option("--json", help="The result; a killed run goes on.")] = Path(
        "paper.json"
    ),
    rows: Annotated[str, typer.Option(help="Only these subjects.")] = "",
    limit: Limit = None,
    window: Window = None,
    workers: Workers = 8,
    compressor: Compressor = None,
    summaries: Summaries = "model",
) -> None:
    """The published table's rows, with the controls that it leaves out."""
    from deltamem_agents.evaluation.paper import SUBJECTS, evaluate_paper

    out = console()
    cast = Run(model, adapter, window, "", save, workers, compressor, summaries).cast()
    names = [name.strip() for name in rows.split(",") if name.strip()] or SUBJECTS
    with progress(out) as bar:
        line = bar.add_task("data sets", total=None)
        found = evaluate_paper(
            cast, data, save, subjects=names, limit=limit, about=about(cast), workers=workers,
            tick=lambda name: bar.update(line, advance=1, description=f"{name} is done"),
        )  # fmt: skip
    out.print(found.table())
    out.print(f"Written: {save}")


@evaluation.command()
def ablation(
    output: Annotated[Path, typer.Option(help="Folder of the table; a stopped run goes on.")],
    axes: Annotated[
        str, typer.Option(help="Of corrections, layers, rank, heads, write, update.")
    ] = "",
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = 300,
    tokens: Annotated[int, typer.Option(min=1, help="Of a batch, about.")] = 3000,
    conversations: Annotated[int, typer.Option(min=1, help="Of each line of recall.")] = 50,
    backbone: Annotated[Path | None, typer.Option(help="A folder; the built-in one.")] = None,
    start: Annotated[Path | None, typer.Option(help="An adapter to begin with.")] = None,
    seed: Seed = 0,
) -> None:
    """What each choice of the adapter is worth: short trainings on a frozen backbone."""
    from deltamem_agents.evaluation.ablation import AXES, AblationSettings, run_ablation
    from deltamem_agents.evaluation.ablation_report import table

    chosen = tuple(axis.strip() for axis in axes.split(",") if axis.strip()) or AXES
    shared = (backbone, start, steps, tokens, conversations)
    settings = AblationSettings(*shared, seed=seed, axes=chosen)
    out = console()
    found = run_ablation(
        settings, output, lambda cell, result: out.print(f"{cell.axis} {cell.value}: done")
    )
    out.print(table(found))
    out.print(f"Written: {output / 'ablation.json'}, {output / 'ablation.png'}")
