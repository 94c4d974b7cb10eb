"""`deltamem db`: the saver's database, from the outside."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from deltamem_agents.cli.console import console, open_saver

Url = Annotated[str, typer.Argument(help="A SQLAlchemy URL, or the path of a SQLite file.")]
Tenant = Annotated[str, typer.Option(help="Whose data is meant.")]

db = typer.Typer(name="db", help="Make, upgrade, shrink and read databases.", no_args_is_help=True)


@db.command()
def init(database: Url, tenant: Tenant = "default") -> None:
    """Make the tables; on a database that has them, bring them up to date."""
    with open_saver(database, tenant, make=True):
        console().print(f"{database} is ready for tenant {tenant!r}.")


@db.command()
def upgrade(database: Url, tenant: Tenant = "default") -> None:
    """Bring the tables of a database that is there up to date."""
    with open_saver(database, tenant):
        console().print(f"{database} is up to date.")


@db.command()
def stats(database: Url, tenant: Tenant = "default") -> None:
    """Count what a tenant holds."""
    with open_saver(database, tenant) as saver:
        table = Table(box=box.SIMPLE_HEAD, show_header=False, title=f"{database}, {tenant}")
        for name, value in asdict(saver.stats()).items():
            table.add_row(name.replace("_", " "), str(value))
    console().print(table)


@db.command()
def prune(
    database: Url,
    tenant: Tenant = "default",
    thread: Annotated[str | None, typer.Option(help="One thread; all without it.")] = None,
    keep_last: Annotated[int | None, typer.Option(help="Keep the newest so many.")] = None,
    days: Annotated[float | None, typer.Option(help="Keep what is younger.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Remove checkpoints that no rule keeps."""
    age = None if days is None else timedelta(days=days)
    with open_saver(database, tenant) as saver:
        report = saver.retain(thread, keep_last=keep_last, max_age=age, dry_run=dry_run)
    console().print(("Would remove: " if dry_run else "Removed: ") + _counted(report))


@db.command()
def vacuum(database: Url, tenant: Tenant = "default") -> None:
    """Collect what nothing refers to, and give free space back."""
    with open_saver(database, tenant) as saver:
        console().print("Collected: " + _counted(saver.vacuum()))


@db.command("import")
def import_(
    database: Url,
    source: Annotated[str, typer.Argument(help="Database of an official LangGraph saver.")],
    tenant: Tenant = "default",
) -> None:
    """Take over the threads of LangGraph's own SQLite or PostgreSQL saver."""
    with open_saver(database, tenant, make=True) as saver:
        console().print("Taken over: " + _counted(saver.import_checkpoints(source)))


def _counted(report: object) -> str:
    values = asdict(report)  # type: ignore[call-overload]
    counts = [
        f"{count} {name.replace('_', ' ')}"
        for name, count in values.items()
        if count and not isinstance(count, bool)
    ]
    text = ", ".join(counts) or "nothing"
    if values.get("purged") is False:
        text += "; the log still holds old bytes, because another connection reads it"
    return text
