"""The commands of `deltamem`, and how errors leave it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from deltamem_agents.cli.chat import chat
from deltamem_agents.cli.console import console
from deltamem_agents.cli.convert import convert
from deltamem_agents.cli.database import db
from deltamem_agents.cli.demo import demo
from deltamem_agents.cli.evaluate import evaluation
from deltamem_agents.cli.facts import facts
from deltamem_agents.cli.look import inspect
from deltamem_agents.cli.train import data, train
from deltamem_agents.errors import DeltaMemError

app = typer.Typer(
    name="deltamem",
    help="Working memory for LangGraph agents that lives inside the model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(chat)
app.command()(inspect)
app.command()(convert)
app.command()(train)
for group in (facts, db, data, evaluation):
    app.add_typer(group)


@app.callback(invoke_without_command=True)
def _deltamem(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Working memory for LangGraph agents that lives inside the model."""
    if version:
        from importlib.metadata import version as installed

        console().print(f"deltamem-agents {installed('deltamem-agents')}")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 where a command's own check failed, 2 for an error of ours, of the
        command line or of a path, 130 where the user interrupted it.
    """
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        app(list(arguments), prog_name="deltamem", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except DeltaMemError as error:
        console(error=True).print(f"[red]{type(error).__name__}:[/red] {escape(str(error))}")
        return 2
    except OSError as error:  # of a path on the command line: no folder, no right, no file
        console(error=True).print(f"[red]{type(error).__name__}:[/red] {escape(str(error))}")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
