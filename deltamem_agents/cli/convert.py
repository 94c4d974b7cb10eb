"""`deltamem convert`: an adapter from one file format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltamem_agents.cli.console import console, quiet
from deltamem_agents.errors import ConfigError


def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub name of the adapter.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    model: Annotated[str, typer.Option(help="The adapter's backbone: folder or hub name.")],
    to: Annotated[str, typer.Option(help="deltamem, or official (the released code's).")] = (
        "deltamem"
    ),
) -> None:
    """Read an adapter in either format, check it against its backbone, write the other."""
    from transformers import AutoModelForCausalLM

    from deltamem_agents.adapter import load_adapter, save_adapter
    from deltamem_agents.errors import ModelNotFoundError

    if target.exists() and any(target.iterdir()):
        raise ConfigError(
            "an adapter is written to a new or empty folder",
            got=str(target),
            remedy="Choose another folder; nothing was changed.",
        )
    quiet()
    try:
        backbone = AutoModelForCausalLM.from_pretrained(model)
    except OSError as error:
        raise ModelNotFoundError(
            "a backbone is a folder or a name on the hub",
            got=model,
            remedy="Give the one that the adapter was made for.",
        ) from error
    load_adapter(backbone, source)
    save_adapter(backbone, target, format=to)
    console().print(f"{target} holds the adapter in the format {to!r}.")
