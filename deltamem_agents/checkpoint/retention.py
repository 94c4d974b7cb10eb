"""Which checkpoints go: by strategy, by number, by age, by run; and whole threads copied."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table, and_, insert, literal, or_, select, union

from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.checkpoint import removal
from deltamem_agents.checkpoint.fact_rows import copy_facts, has_facts
from deltamem_agents.checkpoint.fact_tables import fact_tables
from deltamem_agents.checkpoint.identifiers import checked_thread
from deltamem_agents.checkpoint.queries import has_term
from deltamem_agents.checkpoint.removal import Removal
from deltamem_agents.checkpoint.rows import load_metadata, text
from deltamem_agents.errors import ConfigError, ConflictError, ThreadHistoryError

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.transactions import Operation

Make = Callable[["Context"], "Operation[Removal]"]


class DryRun(Exception):
    """Raised inside a transaction so that it is rolled back."""

    def __init__(self, removal: Removal) -> None:
        super().__init__("dry run")
        self.removal = removal


def delete_thread(thread_id: str) -> Make:
    """Everything of a thread."""
    return lambda context: lambda session: removal.delete_thread(session.core, context, thread_id)


def keep_newest(thread_id: str) -> Make:
    """All but the newest checkpoint of each namespace."""
    return retain([thread_id], keep_last=1, oldest=None)


def retain(
    thread_ids: Sequence[str], *, keep_last: int | None, oldest: int | None, dry_run: bool = False
) -> Make:
    """All checkpoints of some threads that no rule keeps.

    Args:
        thread_ids: of the tenant.
        keep_last: keeps the newest so many of each namespace.
        oldest: keeps what was stored at this time (milliseconds since 1970) or later.
        dry_run: report only (by `DryRun`, which undoes the transaction).
    """

    def operation(session: Session, context: Context) -> Removal:
        report = Removal()
        for thread_id in thread_ids:
            held = removal.load_thread(session.core, context, thread_id)
            kept = removal.newest_of(held, keep_last or 0)
            doomed = [
                entry.row
                for entry in held
                if not entry.hidden
                and entry.row not in kept
                and not (oldest is not None and entry.created >= oldest)
            ]
            report += removal.remove(session.core, context, thread_id, held, doomed)
        if dry_run:
            raise DryRun(report)
        return report

    return lambda context: lambda session: operation(session, context)


def check_rules(keep_last: int | None, max_age: timedelta | float | None) -> int | None:
    """The time in milliseconds before which checkpoints are too old.

    Raises:
        ConfigError: no rule was given, or one makes no sense.
    """
    if keep_last is None and max_age is None:
        raise ConfigError("retention has a rule", got="none", remedy="Pass keep_last= or max_age=.")
    if keep_last is not None and not (type(keep_last) is int and keep_last >= 1):
        raise ConfigError(
            "keep_last is 1 or more", got=keep_last, remedy="Call delete_thread to keep none."
        )
    if max_age is None:
        return None
    seconds = max_age.total_seconds() if isinstance(max_age, timedelta) else max_age
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ConfigError(
            "max_age is a time span, 0 or more",
            got=max_age,
            remedy="Pass a timedelta, or seconds.",
        )
    return int((time.time() - seconds) * 1000)


def threads(context: Context) -> Operation[list[str]]:
    """All threads of the tenant that have a checkpoint or a write."""
    queries = [
        select(table.c.thread_id).where(table.c.tenant == context.tenant)
        for table in (context.tables.checkpoints, context.tables.writes)
    ]
    return lambda session: sorted(text(row[0]) for row in session.core.execute(union(*queries)))


def delete_runs(run_ids: Sequence[str]) -> Make:
    """The checkpoints of these runs in all threads."""
    if isinstance(run_ids, str):
        raise ConfigError("run_ids is a list of ids", got=run_ids, remedy="Pass it in a list.")

    def operation(session: Session, context: Context) -> Removal:
        report = Removal()
        for thread_id, rows in _rows_of_runs(session, context, run_ids).items():
            held = removal.load_thread(session.core, context, thread_id)
            report += removal.remove(session.core, context, thread_id, held, rows)
        return report

    return lambda context: lambda session: operation(session, context)


def _rows_of_runs(
    session: Session, context: Context, run_ids: Sequence[str]
) -> dict[str, list[int]]:
    table, family = context.tables.checkpoints, session.statements.family
    found: dict[str, list[int]] = {}
    for part in removal.chunks(list(dict.fromkeys(run_ids))):
        terms = [meta.term("run_id", run_id, context.coder.salt) for run_id in part]
        rows = session.core.execute(
            select(table.c.thread_id, table.c.id, table.c.metadata).where(
                table.c.tenant == context.tenant,
                table.c.hidden == 0,
                or_(
                    *(
                        has_term(family, table.c.terms, literal(term, table.c.terms.type))
                        for term in terms
                    )
                ),
            )
        )
        for thread_id, row, stored in rows:
            metadata = load_metadata(text(stored), context.coder)
            if any(meta.matches(metadata, {"run_id": run_id}) for run_id in part):
                found.setdefault(text(thread_id), []).append(row)
    return found


def copy_thread(source: str, target: str) -> Callable[[Context], Operation[int]]:
    """All of a thread under another id, in SQL: contents are shared; its facts come along."""
    return lambda context: lambda session: _copy(session.core, context, source, target)


def _copy(connection: Connection, context: Context, source: str, target: str) -> int:
    tables = context.tables
    if source == target:
        raise ConfigError(
            "a thread is copied to another one", got=target, remedy="Choose another target."
        )
    here = [
        and_(table.c.tenant == context.tenant, table.c.thread_id == target)
        for table in (tables.checkpoints, tables.writes)
    ]
    facts = fact_tables(tables.schema, tables.prefix)
    taken = has_facts(connection, facts, context.tenant, target)
    for table, where in zip((tables.checkpoints, tables.writes), here, strict=True):
        taken |= bool(connection.execute(select(table.c.thread_id).where(where).limit(1)).first())
    if taken:
        raise ConflictError(
            "a thread is copied to an empty one",
            got=target,
            remedy="Delete the target thread first, or choose another id.",
        )
    count = _copy_rows(connection, context, tables.checkpoints, source, target)
    if not count:
        raise ThreadHistoryError(
            "the thread to copy has checkpoints",
            got=source,
            remedy="See `deltamem inspect DATABASE` for the threads there are.",
        )
    _copy_rows(connection, context, tables.writes, source, target)
    for table in (tables.channels, tables.memory_states):
        _copy_parts(connection, context, table, source, target)
    copy_facts(connection, facts, context.tenant, source, target)
    return count


def _copy_rows(
    connection: Connection, context: Context, table: Table, source: str, target: str
) -> int:
    columns = [column for column in table.columns if column.name != "id"]
    rows = select(
        *(
            literal(target, column.type).label("thread_id")
            if column.name == "thread_id"
            else column
            for column in columns
        )
    ).where(table.c.tenant == context.tenant, table.c.thread_id == source)
    return connection.execute(
        insert(table).from_select([column.name for column in columns], rows)
    ).rowcount


def _copy_parts(
    connection: Connection, context: Context, table: Table, source: str, target: str
) -> None:
    """Rows that hang on a checkpoint's number: from the old number to the new one."""
    old, new = (context.tables.checkpoints.alias(name) for name in ("old", "new"))
    replaced: dict[str, Any] = {"checkpoint": new.c.id}
    if "thread_id" in table.c:
        replaced["thread_id"] = literal(target, table.c.thread_id.type)
    names = [column.name for column in table.columns]
    rows = (
        select(*(replaced.get(name, table.c[name]) for name in names))
        .join(old, old.c.id == table.c.checkpoint)
        .join(
            new,
            and_(
                new.c.tenant == old.c.tenant,
                new.c.namespace_key == old.c.namespace_key,
                new.c.checkpoint_id == old.c.checkpoint_id,
            ),
        )
        .where(old.c.tenant == context.tenant, old.c.thread_id == source, new.c.thread_id == target)
    )
    connection.execute(insert(table).from_select(names, rows))


_STRATEGIES = {"keep_latest": keep_newest, "delete": delete_thread}


def retainers(
    names: Sequence[str], keep_last: int | None, oldest: int | None, dry_run: bool
) -> list[Make]:
    """One transaction a thread; a rehearsal is one for all, so that shared contents count once."""
    names = [checked_thread(name) for name in names]
    parts = [names] if dry_run else [[name] for name in names]
    return [retain(part, keep_last=keep_last, oldest=oldest, dry_run=dry_run) for part in parts]


def pruners(thread_ids: Sequence[str], strategy: str) -> list[Make]:
    """What `prune` runs."""
    if strategy not in _STRATEGIES:
        raise ConfigError(
            f"strategy is one of {sorted(_STRATEGIES)}",
            got=strategy,
            remedy="Choose one of these; `retain` has finer rules.",
        )
    if isinstance(thread_ids, str):
        raise ConfigError(
            "thread_ids is a list of ids", got=thread_ids, remedy="Pass it in a list."
        )
    return [_STRATEGIES[strategy](checked_thread(name)) for name in thread_ids]
