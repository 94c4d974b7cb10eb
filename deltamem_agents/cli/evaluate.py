"""`deltamem eval`: what a memory, its controls and other ways are worth, in numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from deltamem_agents.cli.console import console, open_engine, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from deltamem_agents.evaluation.cast import Cast
    from deltamem_agents.evaluation.frame import Task

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
Workers = Annotated[int, typer.Option(min=1, help="Episodes at once; 1 for undisturbed latencies.")]
Compressor = Annotated[
    Path | None, typer.Option(help="Token classifier of the compressed prompt (LLMLingua-2).")
]
Summaries = Annotated[str, typer.Option(help="MemoryBank's: by the model, or extract.")]
Count = Annotated[int, typer.Option(min=1, help="Episodes of each line.")]
Limit = Annotated[int | None, typer.Option(help="Most questions of the file.")]

evaluation = typer.Typer(
    name="eval", help="Measure a memory, its controls and baselines.", no_args_is_help=True
)


@evaluation.command()
def recall(
    model: Model = None,
    adapter: Adapter = None,
    conversations: Annotated[int, typer.Option(min=1, help="For each line.")] = 200,
    window: Annotated[int, typer.Option(min=1, help="Visible tokens.")] = 256,
    facts: Annotated[str, typer.Option(help="Only these counts, such as 1,5.")] = "",
    own_replies: Annotated[
        bool, typer.Option("--own-replies", help="The replies to what is told are the model's.")
    ] = False,
    subjects: Subjects = "standard",
    seed: Seed = 0,
    save: Save = None,
    workers: Workers = 8,
    compressor: Compressor = None,
    summaries: Summaries = "",
) -> None:
    """Ask for facts that have left the window."""
    from deltamem_agents.evaluation.tasks.recall import Recall, settings_of

    settings = settings_of(numbers(facts))
    perform(
        Run(model, adapter, window, subjects, save, workers, compressor, summaries),
        lambda cast: Recall(cast.reader, settings, count=conversations, seed=seed, own=own_replies),
    )


@evaluation.command()
def instructed(
    model: Model = None,
    adapter: Adapter = None,
    window: Annotated[int, typer.Option(min=1, help="Visible tokens: all of a case.")] = 512,
    refusals: Annotated[int, typer.Option(min=1, help="Prompts with a refusal sentence.")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="Prompts with a tool.")] = 60,
    seed: Seed = 0,
    save: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Ask under system prompts: is their refusal sentence used, is their tool called?"""
    from deltamem_agents.evaluation.tasks.instructed import evaluate_instructed

    out = console()
    engine = open_engine(model, adapter, context_window=window)
    with progress(out) as bar:
        line = bar.add_task("asking", total=refusals + calls)
        found = evaluate_instructed(
            engine, refusals=refusals, calls=calls, seed=seed, tick=lambda: bar.advance(line)
        )
    table = Table("under a system prompt", "right [95 %]", "replies", box=box.SIMPLE_HEAD)
    for name, share in found.items():
        table.add_row(name, str(share), str(share.total))
    out.print(table)
    if save is not None:
        rows = {name: {"right": one.right, "of": one.total} for name, one in found.items()}
        save.write_text(
            json.dumps({"task": "instructed", "seed": seed, "rows": rows}, indent=2) + "\n"
        )
        out.print(f"Written: {save}")


@evaluation.command()
def router(
    threads: Annotated[int, typer.Option(min=1, help="About 31 questions each.")] = 40,
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


@dataclass(frozen=True)
class Run:
    """What every task's command is given.

    Args:
        model: see `open_engine`.
        adapter: see there.
        window: see there.
        subjects: see `Cast.choose`.
        save: where the result goes.
        workers: see `runner.run`.
        compressor: see `BaselineSettings`.
        summaries: see there.
        bare: see `Cast`.
    """

    model: str | None
    adapter: str | None
    window: int | None
    subjects: str
    save: Path | None
    workers: int
    compressor: Path | None = None
    summaries: str = ""
    bare: bool = False

    def cast(self) -> Cast:
        """Open the model. The built-in one cannot write summaries: they are extracted for it."""
        from deltamem_agents.evaluation.cast import BaselineSettings, Cast

        engine = open_engine(self.model, self.adapter, context_window=self.window)
        how = self.summaries or ("model" if self.model else "extract")
        return Cast(
            engine, BaselineSettings(compressor=self.compressor, summaries=how), bare=self.bare
        )


def perform(given: Run, make: Callable[[Cast], Task]) -> None:
    """Open a model, run a task with the chosen subjects, print the tables.

    Args:
        given: what the command was given.
        make: the task, made when the model is there.
    """
    from deltamem_agents.evaluation.runner import run, steps

    out = console()
    cast = given.cast()
    task, chosen = make(cast), cast.choose(given.subjects)
    with progress(out) as bar:
        line = bar.add_task("preparing", total=None)
        bar.update(line, total=steps(task, chosen), description="reading and asking")
        result = run(
            task, chosen, path=given.save, about=about(cast), workers=given.workers,
            tick=lambda: bar.advance(line),
        )  # fmt: skip
    view = f"a window of {cast.engine.context_window} tokens"
    out.print(result.table(f"{task.name}, {'state only' if cast.bare else view}"))
    out.print(result.cost_table())
    out.print(f"{result.seconds} s")
    if given.save is not None:
        out.print(f"Written: {given.save}")


def about(cast: Cast) -> dict[str, Any]:
    """What decides the answers beside the task."""
    engine, settings = cast.engine, cast.settings
    return {
        "model": engine.name,
        "fingerprint": engine.fingerprint,
        "context_window": engine.context_window,
        "bare": cast.bare,
        "compressor": None if settings.compressor is None else str(settings.compressor),
        "summaries": settings.summaries,
    }


def numbers(text: str) -> list[int]:
    """The whole numbers of a list with commas.

    Raises:
        typer.BadParameter: something else is in it.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"whole numbers with commas, such as 1,4; got {text!r}") from error


from deltamem_agents.cli import evaluate_tasks as _tasks  # noqa: E402, F401  (adds its commands)
