"""How a command takes what stands behind it on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Sequence


class WholeCommand(TyperCommand):
    """A command that names everything that is missing at once, not the first of it."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            kind: Any = type(error)  # of the click that typer carries in it and does not export
            if kind.__name__ != "MissingParameter" or len(names := self._missing(given)) < 2:
                raise
            told = kind(ctx=ctx, param_hint=_listed(names), param_type="arguments")
            raise told from error

    def _missing(self, given: Sequence[str]) -> list[str]:
        """The required arguments that are not given."""
        lenient = self.make_context(self.name, list(given), resilient_parsing=True)
        wanted = [one for one in self.params if one.required and one.name]
        return [str(one.name) for one in wanted if not lenient.params.get(str(one.name))]


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"
