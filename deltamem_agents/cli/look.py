"""`deltamem inspect`: what a database remembers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from deltamem_agents.cli.console import console, open_saver
from deltamem_agents.errors import ThreadHistoryError

if TYPE_CHECKING:
    from deltamem_agents.checkpoint import SQLAlchemySaver


def inspect(
    database: Annotated[str, typer.Argument(help="A SQLAlchemy URL, or a SQLite file.")],
    thread: Annotated[str | None, typer.Option(help="One thread; all without it.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose data is meant.")] = "default",
    picture: Annotated[
        Path | None, typer.Option(help="Draw the thread's memory to this file.")
    ] = None,
) -> None:
    """List the threads of a database, or the course of one thread's memory."""
    with open_saver(database, tenant) as saver:
        if thread is None:
            _threads(saver)
        else:
            _course(saver, thread, picture)


def _threads(saver: SQLAlchemySaver) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("thread", "checkpoints", "memories", "tokens read", "norm"):
        table.add_column(name)
    counts: dict[str, int] = {}
    for saved in saver.list(None):
        name = saved.config["configurable"]["thread_id"]
        counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        course = saver.memories(name)
        last = course[-1] if course else None
        row = (name, str(count), str(len(course)))
        told = (str(last.tokens_written), f"{last.norm:.2f}") if last else ("", "")
        table.add_row(*map(Text, (*row, *told)))
    console().print(table if counts else "No threads.")


def _course(saver: SQLAlchemySaver, thread: str, picture: Path | None) -> None:
    course = saver.memories(thread)
    memory = saver.memory_at({"configurable": {"thread_id": thread}})
    if memory is None:
        raise ThreadHistoryError(
            "the thread has a memory", got=thread, remedy="See `deltamem inspect DATABASE`."
        )
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("checkpoint", "tokens read", "norm"):
        table.add_column(name)
    for record in course:
        table.add_row(record.checkpoint_id[-12:], str(record.tokens_written), f"{record.norm:.2f}")
    out = console()
    out.print(table)
    out.print(Text(repr(memory)))
    if picture is not None:
        from deltamem_agents.inspect.plots import plot_memory

        plot_memory(memory, picture)
        out.print(f"Picture: {picture}")
