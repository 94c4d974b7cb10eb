"""`deltamem inspect`: what a database remembers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_agents.cli.console import console, open_engine, open_saver
from deltamem_agents.errors import ConfigError

if TYPE_CHECKING:
    from deltamem_agents.inspect.course import Course
    from deltamem_agents.inspect.trace import WriteTrace


def inspect(
    database: Annotated[str, typer.Argument(help="A SQLAlchemy URL, or a SQLite file.")],
    thread: Annotated[str | None, typer.Option(help="One thread; all without it.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose data is meant.")] = "default",
    namespace: Annotated[
        str, typer.Option(help="Of a subgraph, such as a subagent; the graph itself without.")
    ] = "",
    html: Annotated[
        Path | None,
        typer.Option(help="Write one page that a browser opens; --writes colours its text."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the memory to this file, such as memory.png.")
    ] = None,
    compare: Annotated[
        str, typer.Option(help="Two checkpoints or branches by the ends of their ids: a1b2,c3d4.")
    ] = "",
    writes: Annotated[
        bool, typer.Option(help="Read the text again and show how strongly it was written.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="For --writes: folder or hub name; built-in without.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="For --writes: folder or hub name.")] = None,
    window: Annotated[int | None, typer.Option(help="For --writes: visible tokens.")] = None,
) -> None:
    """List the threads of a database, or look at one thread's memory."""
    from deltamem_agents.inspect import course as reading
    from deltamem_agents.inspect import terminal

    if thread is None and (html or picture or compare or writes or namespace):
        raise typer.BadParameter(
            "pages, pictures, comparisons and namespaces are of one thread: add --thread"
        )
    out = console()
    with open_saver(database, tenant) as saver:
        if thread is None:
            out.print(terminal.threads_table(reading.threads(saver), saver.stats().database_bytes))
            return
        course = reading.course(saver, thread, namespace=namespace)
    trace = _traced(course, model, adapter, window) if writes else None
    pair = _pair(course, compare)
    _files(course, trace, pair, html, picture)
    if pair is not None:
        before, after = (course.points[index].memory for index in pair)
        out.print(terminal.compare_report(before, after))
    elif html is None and picture is None:
        out.print(terminal.thread_report(course, trace))


def _files(
    course: Course,
    trace: WriteTrace | None,
    pair: tuple[int, int] | None,
    html: Path | None,
    picture: Path | None,
) -> None:
    """The page and the picture that were asked for."""
    if html is not None:
        from deltamem_agents.inspect.page import write_page

        console().print(f"Page: {write_page(html, course, trace, compare=pair)}")
    if picture is not None:
        from deltamem_agents.inspect.plots import plot_memory

        plot_memory(course.last.memory, picture)
        console().print(f"Picture: {picture}")


def _traced(
    course: Course, model: str | None, adapter: str | None, window: int | None
) -> WriteTrace:
    """The text, read again."""
    from deltamem_agents.inspect.trace import trace_writes

    return trace_writes(open_engine(model, adapter, context_window=window), course.messages)


def _pair(course: Course, names: str) -> tuple[int, int] | None:
    """The two points that were named."""
    if not names:
        return None
    chosen = [course.points.index(course.point(name.strip())) for name in names.split(",")]
    if len(chosen) != 2:
        raise ConfigError(
            "two checkpoints are compared", got=names, remedy="Name them as --compare ID,ID."
        )
    return chosen[0], chosen[1]
