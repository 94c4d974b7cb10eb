"""`deltamem eval`: what a memory and the router are worth, in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from deltamem_agents.cli.console import console, open_engine, progress

Save = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
Seed = Annotated[int, typer.Option(help="The same seed asks the same questions.")]

evaluation = typer.Typer(
    name="eval", help="Measure recall and routing on held-out data.", no_args_is_help=True
)


@evaluation.command()
def recall(
    model: Annotated[str | None, typer.Option(help="Folder or hub name.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Folder or hub name.")] = None,
    conversations: Annotated[int, typer.Option(help="For each line.")] = 200,
    window: Annotated[int, typer.Option(help="Visible tokens.")] = 256,
    facts: Annotated[str, typer.Option(help="Only these counts, such as 1,4.")] = "",
    seed: Seed = 0,
    save: Save = None,
) -> None:
    """Ask for facts that have left the window, with controls."""
    from deltamem_agents.evaluation.recall import evaluate
    from deltamem_agents.evaluation.tasks.recall import SETTINGS, steps

    out = console()
    engine = open_engine(model, adapter, context_window=window)
    counts = {int(count) for count in facts.split(",") if count}
    settings = [one for one in SETTINGS if not counts or one.facts in counts]
    with progress(out) as bar:
        task = bar.add_task("reading and asking", total=steps(settings, conversations, full=True))
        result = evaluate(
            engine,
            count=conversations,
            seed=seed,
            settings=settings,
            tick=lambda: bar.advance(task),
        )
    out.print(result.table())
    out.print(f"{result.about['seconds']} s; memory {result.about['memory_bytes']['most']} bytes")
    _write(save, result.as_dict(), out)


@evaluation.command()
def router(
    threads: Annotated[int, typer.Option(help="About 31 questions each.")] = 40,
    seed: Seed = 0,
    save: Save = None,
) -> None:
    """Ask the router generated questions and check what it answers from the store."""
    from deltamem_agents.evaluation.tasks.router import evaluate_router

    summary = evaluate_router(seed=seed, threads=threads).summary()
    table = Table(box=box.SIMPLE_HEAD, show_header=False, title="The router, held-out phrasings")
    for name, value in summary.items():
        table.add_row(name, f"{value:.3f}" if 0 < value < 1 else f"{value:g}")
    out = console()
    out.print(table)
    _write(save, {"task": "router", "seed": seed, "threads": threads, **summary}, out)


def _write(path: Path | None, result: dict[str, Any], out: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        out.print(f"Written: {path}")
