"""The queries of the hot paths: one statement reads a checkpoint, or a page, with all of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Select,
    and_,
    bindparam,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import CTE

from deltamem_agents.checkpoint.tables import Tables


def address(table: Any, checkpoint: str | None) -> list[ColumnElement[bool]]:
    """Tenant, thread and namespace, and the checkpoint by the parameter of that name."""
    where = [
        table.c.tenant == bindparam("tenant"),
        table.c.thread_id == bindparam("thread_id"),
        table.c.namespace_key == bindparam("namespace_key"),
    ]
    if checkpoint:
        where.append(table.c.checkpoint_id == bindparam(checkpoint))
    return where


def get(tables: Tables, latest: bool) -> Executable:
    """One checkpoint with its channels and writes: by id, or the newest of a namespace."""
    table = tables.checkpoints
    rows = select(table).where(
        *address(table, None if latest else "checkpoint_id"), table.c.hidden == 0
    )
    if latest:
        rows = rows.order_by(table.c.checkpoint_id.desc()).limit(1)
    return sections(tables, rows)


def page(
    tables: Tables,
    family: str,
    thread: bool,
    namespace: bool,
    checkpoint: bool,
    before: bool,
    after: bool,
    terms: int,
) -> Executable:
    """One page of a listing, newest first; `after` continues below the last row seen."""
    table = tables.checkpoints
    where = [table.c.tenant == bindparam("tenant"), table.c.hidden == 0]
    if thread:
        where.append(table.c.thread_id == bindparam("thread_id"))
    if namespace:
        where.append(table.c.namespace_key == bindparam("namespace_key"))
    if checkpoint:
        where.append(table.c.checkpoint_id == bindparam("checkpoint_id"))
    if before:
        where.append(table.c.checkpoint_id < bindparam("before"))
    if after:
        where.append(table.c.checkpoint_id <= bindparam("last"))
        where.append(
            or_(table.c.checkpoint_id < bindparam("last"), table.c.id < bindparam("last_row"))
        )
    where += [
        has_term(family, table.c.terms, bindparam(f"term{i}", type_=table.c.terms.type))
        for i in range(terms)
    ]
    rows = (
        select(table)
        .where(*where)
        .order_by(table.c.checkpoint_id.desc(), table.c.id.desc())
        .limit(bindparam("size"))
    )
    return sections(tables, rows)


def has_term(
    family: str, column: ColumnElement[bytes], wanted: ColumnElement[bytes]
) -> ColumnElement[bool]:
    """Whether the terms of a checkpoint's metadata hold this one (or seem to)."""
    if family == "sqlite":
        return func.instr(column, wanted) > 0
    if family == "mysql":
        return func.locate(wanted, column) > 0
    # With the schema's name it is an ordinary function, where "position" alone is syntax.
    return func.pg_catalog.position(column, wanted) > 0


def sections(tables: Tables, rows: Select[Any]) -> Executable:
    """The chosen checkpoints and all that hangs on them, in one statement.

    Rows: section (0 checkpoint, 1 channel, 2 write), checkpoint's number, five texts, a
    number, kind, bytes, hash of the blob; see `rows.py`.
    """
    chosen = rows.cte("chosen")
    heads = select(
        literal_column("0").label("section"),
        chosen.c.id.label("row"),
        chosen.c.checkpoint_id.label("one"),
        chosen.c.thread_id.label("two"),
        chosen.c.namespace.label("three"),
        chosen.c.parent_id.label("four"),
        chosen.c.metadata.label("five"),
        chosen.c.channel_count.label("number"),
        chosen.c.kind.label("kind"),
        chosen.c.body.label("data"),
        null().label("hash"),
    )
    return union_all(heads, _held(tables, chosen), _pending(tables, chosen))


def _held(tables: Tables, chosen: CTE) -> Select[Any]:
    channels, blobs = tables.channels, tables.blobs
    return select(
        literal_column("1"),
        chosen.c.id,
        channels.c.channel,
        null(),
        null(),
        null(),
        null(),
        literal_column("0"),
        func.coalesce(channels.c.kind, blobs.c.kind),
        func.coalesce(channels.c.data, blobs.c.data),
        channels.c.blob,
    ).select_from(
        chosen.join(channels, channels.c.checkpoint == chosen.c.id).outerjoin(
            blobs, blobs.c.hash == channels.c.blob
        )
    )


def _pending(tables: Tables, chosen: CTE) -> Select[Any]:
    writes, blobs = tables.writes, tables.blobs
    return select(
        literal_column("2"),
        chosen.c.id,
        writes.c.task_id,
        writes.c.channel,
        writes.c.task_path,
        null(),
        null(),
        writes.c.idx,
        func.coalesce(writes.c.kind, blobs.c.kind),
        func.coalesce(writes.c.data, blobs.c.data),
        writes.c.blob,
    ).select_from(
        chosen.join(
            writes,
            and_(
                writes.c.tenant == chosen.c.tenant,
                writes.c.thread_id == chosen.c.thread_id,
                writes.c.namespace_key == chosen.c.namespace_key,
                writes.c.checkpoint_id == chosen.c.checkpoint_id,
            ),
        ).outerjoin(blobs, blobs.c.hash == writes.c.blob)
    )
