"""Taking away: threads, runs, old checkpoints, and the blobs that nothing refers to any more.

A checkpoint that goes may still be needed: a `DeltaChannel` keeps a value as a chain of writes
back to the nearest stored one. Such a checkpoint is not deleted but hidden: no listing shows it
and no read finds it, only the history of its descendants' DeltaChannels runs through it. It goes
when the last of them goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, delete, func, select

from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.doomed import (
    Held,
    Removal,
    blobs_of,
    chunks,
    collect,
    delete_rows,
    delete_writes,
    hide,
    referenced,
)
from deltamem_agents.checkpoint.fact_tables import delete_scope_facts, fact_tables
from deltamem_agents.checkpoint.failures import DAMAGED
from deltamem_agents.checkpoint.rows import text
from deltamem_agents.errors import CorruptStorageError


def load_thread(connection: Connection, context: Context, thread_id: str) -> list[Held]:
    """All checkpoints of a thread, newest first."""
    table = context.tables.checkpoints
    rows = connection.execute(
        select(
            table.c.id,
            table.c.namespace_key,
            table.c.checkpoint_id,
            table.c.parent_id,
            table.c.created,
            table.c.hidden,
            table.c.deltas,
        ).where(table.c.tenant == context.tenant, table.c.thread_id == thread_id)
    ).all()
    held = [
        Held(
            row[0],
            bytes(row[1]),
            text(row[2]),
            None if row[3] is None else text(row[3]),
            row[4],
            bool(row[5]),
            _names(row[6]),
        )
        for row in rows
    ]
    return sorted(held, key=lambda entry: entry.checkpoint_id, reverse=True)


def _names(stored: str | None) -> tuple[str, ...]:
    if stored is None:
        return ()
    try:
        names = json.loads(stored)
    except ValueError as error:
        raise CorruptStorageError(
            "the names of DeltaChannels are JSON", got=stored, remedy=DAMAGED
        ) from error
    return tuple(str(name) for name in names)


def delete_thread(connection: Connection, context: Context, thread_id: str) -> Removal:
    """Everything of one thread: checkpoints, writes, memories, facts, its fence."""
    tables = context.tables
    scope = [
        and_(table.c.tenant == context.tenant, table.c.thread_id == thread_id)
        for table in (tables.checkpoints, tables.writes)
    ]
    numbers = select(tables.checkpoints.c.id).where(scope[0])
    blobs = blobs_of(
        connection,
        [
            select(tables.channels.c.blob).where(tables.channels.c.checkpoint.in_(numbers)),
            select(tables.writes.c.blob).where(scope[1]),
        ],
    )
    for table in (tables.memory_states, tables.channels):
        connection.execute(delete(table).where(table.c.checkpoint.in_(numbers)))
    writes = connection.execute(delete(tables.writes).where(scope[1])).rowcount
    visible = (
        connection.scalar(select(func.count()).where(scope[0], tables.checkpoints.c.hidden == 0))
        or 0
    )
    count = connection.execute(delete(tables.checkpoints).where(scope[0])).rowcount
    facts = delete_scope_facts(
        connection, context.tenant, thread_id, fact_tables(tables.schema, tables.prefix)
    )
    connection.execute(
        delete(tables.fences).where(
            tables.fences.c.tenant == context.tenant, tables.fences.c.thread_id == thread_id
        )
    )
    removal = Removal(int(count > 0), visible, 0, writes, facts)
    return removal + collect(connection, context, blobs)


def remove(
    connection: Connection,
    context: Context,
    thread_id: str,
    held: Sequence[Held],
    doomed: Iterable[int],
) -> Removal:
    """Remove the doomed checkpoints of a thread, but not what the others' DeltaChannels need."""
    doomed = set(doomed)
    survivors = [entry for entry in held if not entry.hidden and entry.row not in doomed]
    if not survivors:
        return delete_thread(connection, context, thread_id) if held else Removal()
    needed = _needed(connection, context, held, survivors)
    keep = {entry.row for entry in survivors}
    gone = [entry for entry in held if entry.row not in keep and entry.row not in needed]
    unseen = [entry for entry in held if entry.row in needed and entry.row not in keep]
    candidates = referenced(connection, context, thread_id, [*gone, *unseen])
    writes = delete_writes(connection, context, thread_id, gone, ())
    delete_rows(connection, context, gone)
    for names, entries in _by_names(unseen, needed).items():
        writes += delete_writes(connection, context, thread_id, entries, sorted(names))
        hide(connection, context, entries, sorted(names))
    new = sum(1 for entry in unseen if not entry.hidden)
    visible = sum(1 for entry in gone if not entry.hidden) + new
    removal = Removal(0, visible, new, writes)
    return removal + collect(connection, context, candidates)


def _by_names(
    entries: Sequence[Held], needed: Mapping[int, set[str]]
) -> dict[frozenset[str], list[Held]]:
    result: dict[frozenset[str], list[Held]] = {}
    for entry in entries:
        result.setdefault(frozenset(needed[entry.row]), []).append(entry)
    return result


def _needed(
    connection: Connection, context: Context, held: Sequence[Held], survivors: Sequence[Held]
) -> dict[int, set[str]]:
    """Rows that a survivor's DeltaChannels are to be read from, and which of these are."""
    names = sorted({name for entry in survivors for name in entry.deltas})
    if not names:
        return {}
    stored = _stored(connection, context, [entry.row for entry in held], names)
    by_place = {entry.place: entry for entry in held}
    needed: dict[int, set[str]] = {}
    for survivor in survivors:
        missing = set(survivor.deltas)
        entry = _parent(by_place, survivor)
        while missing and entry is not None:
            needed.setdefault(entry.row, set()).update(missing)
            missing -= stored.get(entry.row, set())
            entry = _parent(by_place, entry)
    return needed


def _parent(by_place: dict[tuple[bytes, str], Held], entry: Held) -> Held | None:
    if entry.parent_id is None or entry.parent_id >= entry.checkpoint_id:
        # A parent is older than its child; a damaged row must not send the walk in a circle.
        return None
    return by_place.get((entry.namespace_key, entry.parent_id))


def _stored(
    connection: Connection, context: Context, rows: Sequence[int], names: Sequence[str]
) -> dict[int, set[str]]:
    """Which of the named channels each checkpoint holds a value of."""
    table = context.tables.channels
    stored: dict[int, set[str]] = {}
    for part in chunks(rows):
        found = connection.execute(
            select(table.c.checkpoint, table.c.channel).where(
                table.c.checkpoint.in_(part), table.c.channel.in_(names)
            )
        )
        for row, channel in found:
            stored.setdefault(row, set()).add(text(channel))
    return stored


def newest_of(held: Sequence[Held], count: int) -> set[int]:
    """Rows of the newest visible checkpoints of each namespace; `held` is newest first."""
    seen: dict[bytes, int] = {}
    rows: set[int] = set()
    for entry in held:
        if entry.hidden:
            continue
        seen[entry.namespace_key] = seen.get(entry.namespace_key, 0) + 1
        if seen[entry.namespace_key] <= count:
            rows.add(entry.row)
    return rows


__all__ = [
    "Held",
    "Removal",
    "chunks",
    "collect",
    "delete_thread",
    "load_thread",
    "newest_of",
    "remove",
]
