"""`deltamem facts`: the exact store of a thread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from deltamem_agents.cli.arguments import WholeCommand
from deltamem_agents.cli.console import console, open_saver
from deltamem_agents.inspect.presence import check_thread
from deltamem_agents.inspect.visible import visible

if TYPE_CHECKING:
    from deltamem_agents.router import Fact

Url = Annotated[str, typer.Argument(help="A SQLAlchemy URL, or the path of a SQLite file.")]
Thread = Annotated[str, typer.Argument(help="The thread's id.")]
Tenant = Annotated[str, typer.Option(help="Whose data is meant.")]

facts = typer.Typer(name="facts", help="List, search and forget exact facts.", no_args_is_help=True)


@facts.command("list", cls=WholeCommand)
def list_(
    database: Url,
    thread: Thread,
    tenant: Tenant = "default",
    closed: Annotated[bool, typer.Option(help="Also those that no longer hold.")] = False,
) -> None:
    """List the facts of a thread, oldest first."""
    from deltamem_agents.router import FactStore, Scope

    with open_saver(database, tenant) as saver:
        found = FactStore(saver).facts(Scope(tenant, thread), closed=closed)
        if not found:
            check_thread(saver, thread)
    _show(found)


@facts.command(cls=WholeCommand)
def search(
    database: Url,
    thread: Thread,
    question: str,
    tenant: Tenant = "default",
    k: Annotated[int, typer.Option(help="At most that many.")] = 5,
) -> None:
    """Find facts, best first."""
    from deltamem_agents.router import FactStore, Scope

    with open_saver(database, tenant) as saver:
        hits = FactStore(saver).search(question, Scope(tenant, thread), k)
        if not hits:
            check_thread(saver, thread)
    _show(hit.fact for hit in hits)


@facts.command(cls=WholeCommand)
def forget(
    database: Url,
    thread: Thread,
    fact_id: Annotated[list[str], typer.Argument(help="Ids, or their first 8 letters.")],
    tenant: Tenant = "default",
) -> None:
    """Delete facts from the store; the memory inside the model forgets by `chat`'s /forget."""
    from deltamem_agents.errors import FactStoreError
    from deltamem_agents.router import FactStore, Scope

    with open_saver(database, tenant) as saver:
        store, scope = FactStore(saver), Scope(tenant, thread)
        known = [fact.fact_id for fact in store.facts(scope, closed=True)]
        if not known:
            check_thread(saver, thread)
        ids = []
        for name in fact_id:
            found = [one for one in known if one.startswith(name)]
            if len(found) != 1:
                raise FactStoreError(
                    "an id names one fact of the thread",
                    got=name,
                    remedy="See `deltamem facts list`.",
                )
            ids += found
        report = store.forget(scope, fact_ids=ids)
    console().print(f"Forgotten: {len(report.forgotten)}; said elsewhere: {len(report.repeated)}.")


def _show(found: Iterable[Fact]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "about", "what", "value", "said by", "when"):
        table.add_column(name)
    count = 0
    for fact in found:
        row = (
            fact.fact_id[:8],
            fact.subject,
            fact.attribute,
            fact.value,
            fact.asserted_by,
            fact.recorded_at[:16],
        )
        table.add_row(*(Text(visible(cell)) for cell in row), style="" if fact.active else "dim")
        count += 1
    console().print(table if count else "No facts.")
