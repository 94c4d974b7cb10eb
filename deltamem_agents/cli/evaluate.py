"""`deltamem eval`: what a memory, its controls and other ways are worth, in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from deltamem_agents.cli.console import console, open_engine, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from deltamem_agents.evaluation.frame import Task
    from deltamem_agents.evaluation.subjects import Cast

Save = Annotated[
    Path | None,
    typer.Option("--json", help="Write the result to this file; a killed run goes on from it."),
]
Seed = Annotated[int, typer.Option(help="The same seed asks the same questions.")]
Model = Annotated[str | None, typer.Option(help="Folder or hub name; the built-in one without.")]
Adapter = Annotated[str | None, typer.Option(help="Folder or hub name.")]
Window = Annotated[int | None, typer.Option(help="Visible tokens; half of the positions without.")]
Subjects = Annotated[
    str,
    typer.Option(help="Who is asked: names, or standard (memory and controls), baselines, all."),
]
Workers = Annotated[int, typer.Option(help="Episodes at once; 1 for undisturbed latencies.")]
Count = Annotated[int, typer.Option(help="Episodes of each line.")]
Limit = Annotated[int | None, typer.Option(help="Most questions of the file.")]

evaluation = typer.Typer(
    name="eval", help="Measure a memory, its controls and baselines.", no_args_is_help=True
)


@evaluation.command()
def recall(
    model: Model = None,
    adapter: Adapter = None,
    conversations: Annotated[int, typer.Option(help="For each line.")] = 200,
    window: Annotated[int, typer.Option(help="Visible tokens.")] = 256,
    facts: Annotated[str, typer.Option(help="Only these counts, such as 1,4.")] = "",
    subjects: Subjects = "standard",
    seed: Seed = 0,
    save: Save = None,
    workers: Workers = 8,
) -> None:
    """Ask for facts that have left the window."""
    from deltamem_agents.evaluation.tasks.recall import SETTINGS, Recall

    counts = set(numbers(facts))
    settings = [one for one in SETTINGS if not counts or one.facts in counts]
    perform(
        lambda cast: Recall(cast.reader, settings, count=conversations, seed=seed),
        model, adapter, window, subjects, save, workers,
    )  # fmt: skip


@evaluation.command()
def router(
    threads: Annotated[int, typer.Option(help="About 31 questions each.")] = 40,
    seed: Seed = 0,
    save: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Ask the router generated questions and check what it answers from the store."""
    from deltamem_agents.evaluation.tasks.router import evaluate_router

    summary = evaluate_router(seed=seed, threads=threads).summary()
    table = Table(box=box.SIMPLE_HEAD, show_header=False, title="The router, held-out phrasings")
    for name, value in summary.items():
        table.add_row(name, f"{value:.3f}" if 0 < value < 1 else f"{value:g}")
    out = console()
    out.print(table)
    if save is not None:
        result = {"task": "router", "seed": seed, "threads": threads, **summary}
        save.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        out.print(f"Written: {save}")


def perform(
    make: Callable[[Cast], Task],
    model: str | None,
    adapter: str | None,
    window: int | None,
    subjects: str,
    save: Path | None,
    workers: int,
) -> None:
    """Open a model, run a task with the chosen subjects, print the tables.

    Args:
        make: the task, made when the model is there.
        model: see `open_engine`.
        adapter: see there.
        window: see there.
        subjects: see `Cast.choose`.
        save: where the result goes.
        workers: see `runner.run`.
    """
    from deltamem_agents.evaluation.runner import run, steps
    from deltamem_agents.evaluation.subjects import Cast

    out = console()
    engine = open_engine(model, adapter, context_window=window)
    cast = Cast(engine)
    task, chosen = make(cast), cast.choose(subjects)
    about: dict[str, Any] = {
        "model": engine.name,
        "fingerprint": engine.fingerprint,
        "context_window": engine.context_window,
    }
    with progress(out) as bar:
        line = bar.add_task("preparing", total=None)
        bar.update(line, total=steps(task, chosen), description="reading and asking")
        result = run(
            task, chosen, path=save, about=about, workers=workers, tick=lambda: bar.advance(line)
        )
    out.print(result.table(f"{task.name}, a window of {engine.context_window} tokens"))
    out.print(result.cost_table())
    out.print(f"{result.seconds} s")
    if save is not None:
        out.print(f"Written: {save}")


def numbers(text: str) -> list[int]:
    """The whole numbers of a list with commas.

    Raises:
        typer.BadParameter: something else is in it.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"whole numbers with commas, such as 1,4; got {text!r}") from error
