"""A `deltamem` line of the docs, as the real parser takes it."""

from __future__ import annotations

import shlex
from typing import Any

import typer
from typer.main import get_command

from deltamem_agents.cli.app import app


def parsed(line: str, *, whole: bool = True) -> str:
    """Parse a line with the command line's own parser and run nothing.

    Args:
        line: beginning with `deltamem`.
        whole: whether what is required must be there; a mention in a sentence may leave it out.

    Returns:
        The full name of the command, such as "deltamem eval recall".

    Raises:
        Exception: the parser's own, where a command, an option or a value is none of its.
    """
    name, *rest = shlex.split(line)
    command: Any = get_command(app)
    context: Any = None
    path = ""
    try:
        while True:
            path = f"{path} {name}".strip()
            context = command.make_context(name, list(rest), parent=context)
            if not hasattr(command, "commands"):
                return path
            rest = [*context._protected_args, *context.args]
            if not rest and not whole:
                return path
            name, command, rest = command.resolve_command(context, rest)
    except typer.Exit:  # --help ends a parse
        return path
    except Exception as error:
        if whole or type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):
            raise
        return path
