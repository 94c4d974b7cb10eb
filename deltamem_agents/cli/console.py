"""Where the command line prints, and how it names what it opens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from deltamem_agents.errors import ConfigError, DatabaseNotFoundError
from deltamem_agents.inspect.visible import visible

if TYPE_CHECKING:
    from deltamem_agents.chat.model import ChatDeltaMem
    from deltamem_agents.checkpoint import SQLAlchemySaver
    from deltamem_agents.runtime.engine import Engine

PLAIN_WIDTH = 100


class _VisibleConsole(Console):
    """Shows the control characters of strings; a `Text` is given as `Text(visible(...))`."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


def console(*, error: bool = False) -> Console:
    """A console; 100 columns where the output is no terminal."""
    made = _VisibleConsole(stderr=error, highlight=False)
    if not made.is_terminal:
        made = _VisibleConsole(stderr=error, highlight=False, width=PLAIN_WIDTH)
    return made


def progress(out: Console) -> Progress:
    """A progress bar for work that may take longer than two seconds."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )


def quiet() -> None:
    """Switch the loading bars of other libraries off, unless somebody watches.

    At a terminal the download of a large model shows how far it is; loading a small one shows no
    bar anyway (`runtime.loading`).
    """
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def open_model(**options: Any) -> ChatDeltaMem:
    """Load a chat model; the built-in one without `model`."""
    from deltamem_agents.chat.model import ChatDeltaMem

    quiet()
    return ChatDeltaMem(**options)


def open_engine(model: str | None, adapter: str | None, *, context_window: int | None) -> Engine:
    """Load an engine; the built-in model without `model`."""
    from deltamem_agents.runtime.loading import load_engine

    quiet()
    return load_engine(model, adapter, context_window=context_window)


def open_saver(database: str, tenant: str = "default", *, make: bool = False) -> SQLAlchemySaver:
    """Open a database; a SQLite file that is not there is made only if asked for.

    Args:
        database: a SQLAlchemy URL, or the path of a SQLite file.
        tenant: whose data is meant.
        make: create a SQLite file that is not there.

    Raises:
        ConfigError: the name is empty, or of a kind of database that is not known.
        DatabaseNotFoundError: there is no such file, and `make` is False; or no folder for it.
    """
    from deltamem_agents.checkpoint import SQLAlchemySaver

    if not database.strip():
        raise ConfigError(
            "a database is named by a SQLAlchemy URL or the path of a SQLite file",
            got=repr(database),
            remedy="Give one, such as agent.db; a shell variable in its place may be unset.",
        )
    path = sqlite_path(database)
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise DatabaseNotFoundError(
            "a SQLite database is a file in a folder that is there",
            got=str(path),
            remedy="Check the path, or make the folder first.",
        )
    if path is not None and not make and not path.is_file():
        raise DatabaseNotFoundError(
            "a database is there before it is read",
            got=str(path),
            remedy="Check the path, or make a new one with `deltamem db init`.",
        )
    return SQLAlchemySaver(database, tenant=tenant)


def sqlite_path(database: str) -> Path | None:
    """The file of a SQLite database; None for another kind of database, or one in memory."""
    if "://" in database:
        scheme, _, rest = database.partition("://")
        if not scheme.startswith("sqlite"):
            return None
        database = rest.removeprefix("/").partition("?")[0]
    return Path(database) if database and database != ":memory:" else None
