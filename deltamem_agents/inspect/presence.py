"""What a database says of a thread that has nothing to show: not there, or there without it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from deltamem_agents.errors import ThreadHistoryError

if TYPE_CHECKING:
    from deltamem_agents.checkpoint import SQLAlchemySaver

NAMED = 5
"""Threads, or namespaces, that an error names at most."""


def check_thread(saver: SQLAlchemySaver, thread: str) -> int:
    """Refuse a thread that the saver's tenant does not have.

    Args:
        saver: an opened database.
        thread: the thread's id.

    Returns:
        How many checkpoints it has; 0 where only its facts are there, or what forgot them.

    Raises:
        ThreadHistoryError: the tenant has no such thread.
    """
    counts = {one.thread_id: one.checkpoints for one in saver.threads()}
    if thread in counts or _has_facts(saver, thread):
        return counts.get(thread, 0)
    where = f"tenant {saver.tenant!r}"
    if not counts:
        raise ThreadHistoryError(
            "a thread is in the database",
            got=f"{thread!r}, and {where} has none",
            remedy="Talk on this database first (`deltamem chat --db DATABASE`), or name another "
            "database or `--tenant`.",
        )
    near = get_close_matches(thread, counts, NAMED) or list(counts)[:NAMED]
    raise ThreadHistoryError(
        "a thread is in the database",
        got=f"{thread!r}, which is none of the {len(counts)} of {where}",
        remedy=f"There is {_named(near, len(counts))}; `deltamem inspect DATABASE` lists them all.",
    )


def without_memory(saver: SQLAlchemySaver, thread: str, namespace: str) -> ThreadHistoryError:
    """Why a thread has no memory to look at, and what to do.

    Args:
        saver: an opened database.
        thread: the thread's id.
        namespace: the one that was looked at, and has none.

    Raises:
        ThreadHistoryError: the tenant has no such thread.
    """
    count = check_thread(saver, thread)
    there = sorted({record.namespace for record in saver.memories(thread, namespace=None)})
    if there:
        return ThreadHistoryError(
            "a namespace with a memory is looked at",
            got=f"{namespace!r} of thread {thread!r}",
            remedy=f"Name one with `--namespace` (in Python, `namespace=`): "
            f"{_named(there[:NAMED], len(there))}.",
        )
    held = f"{count} checkpoint{'s' * (count != 1)}" if count else "facts alone"
    return ThreadHistoryError(
        "a thread that is looked at has a memory",
        got=f"{thread!r}, which has {held}",
        remedy="Either all that it was told was forgotten, or its graph runs without "
        "DeltaMemMiddleware or memory_node. Its next turn with one of them makes a memory; "
        "`deltamem facts list DATABASE THREAD` shows the facts that are left.",
    )


def _named(names: list[str], total: int) -> str:
    more = f" and {total - len(names)} more" if total > len(names) else ""
    return ", ".join(map(repr, names)) + more


def _has_facts(saver: SQLAlchemySaver, thread: str) -> bool:
    """Whether the fact store knows the thread; looking makes no tables."""
    from sqlalchemy import inspect

    from deltamem_agents.checkpoint.fact_rows import has_facts
    from deltamem_agents.checkpoint.fact_tables import fact_tables

    held = saver.context.tables
    tables = fact_tables(held.schema, held.prefix)
    if not inspect(saver.engine).has_table(tables.tombstones.name, schema=held.schema):
        return False
    with saver.engine.connect() as connection:
        return has_facts(connection, tables, saver.tenant, thread)
