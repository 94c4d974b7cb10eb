"""`deltamem demo`: the main job, in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from deltamem_agents.cli.console import console, open_model, open_saver, progress
from deltamem_agents.errors import ConfigError

DATABASE, PICTURE = "agent.db", "memory.png"


def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where database and picture go; a new one by default.")
    ] = None,
    part: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Tell an agent things, end its process, and ask another process about them."""
    if part == "talk" and folder is not None:
        from deltamem_agents.cli.demo_talk import talk

        talk(folder / DATABASE, console())
    elif part == "ask" and folder is not None:
        raise typer.Exit(_ask(folder))
    else:
        raise typer.Exit(_both(folder))


def _both(folder: Path | None) -> int:
    """Run both processes, one after the other; the exit status of the demo."""
    place = Path(tempfile.mkdtemp(prefix="deltamem-demo-")) if folder is None else folder
    if (place / DATABASE).exists():
        raise ConfigError(
            "the demo starts with a new database",
            got=str(place / DATABASE),
            remedy="Choose another folder, or none.",
        )
    place.mkdir(parents=True, exist_ok=True)
    for part in ("talk", "ask"):
        command = [sys.executable, "-m", "deltamem_agents.cli", "demo", "--part", part]
        status = subprocess.run([*command, "--folder", str(place)], check=False).returncode
        if status:
            return status
    return 0


def _ask(folder: Path) -> int:
    """The second process; 0 if the demo's promise holds."""
    from deltamem_agents.cli import demo_report as report
    from deltamem_agents.cli.demo_ask import Asker
    from deltamem_agents.cli.demo_script import WINDOW, load_script
    from deltamem_agents.inspect.plots import plot_memory

    out, script = console(), load_script()
    out.print(f"\n[bold]Process 2[/bold] (pid {os.getpid()}) opens {DATABASE}")
    model = open_model(context_window=WINDOW)
    forks = script.branches
    steps = len(script.facts) + len(forks.told) * (1 + len(forks.turns)) + 1
    with open_saver(str(folder / DATABASE)) as saver, progress(out) as bar:
        task = bar.add_task("asking", total=steps)
        asker = Asker(model, saver, script)
        rows = []
        for fact in script.facts:
            rows.append(asker.asked(fact))
            bar.advance(task)
        memory = asker.memory
        bar.update(task, description="forking")
        branches = [
            asker.branch(value, text, lambda: bar.advance(task)) for value, text in forks.told
        ]
        bar.update(task, description="forgetting")
        forgot = asker.forget(script.facts[script.forget], folder / DATABASE)
        bar.advance(task)
    plot_memory(memory, folder / PICTURE)
    report.answers(out, rows)
    report.branches(out, forks.question, branches)
    report.forgotten(out, forgot)
    out.print(f"\nPicture of the memory, layers x state: {folder / PICTURE}")
    out.print(f"Database: {folder / DATABASE}")
    return report.verdict(out, rows, branches, forgot)
