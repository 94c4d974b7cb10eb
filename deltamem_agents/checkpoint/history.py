"""The history of DeltaChannels: writes along the parent chain back to the nearest stored value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite
from sqlalchemy import and_, literal_column, or_, select

from deltamem_agents.checkpoint.identifiers import Address
from deltamem_agents.checkpoint.removal import chunks
from deltamem_agents.checkpoint.rows import text

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.transactions import Operation

ROUND = 100  # ancestors a round trip


@dataclass
class _Walk:
    """How far the walk has come: ancestors newest first, and where each channel's value is."""

    channels: Sequence[str]
    path: list[tuple[int, str]] = field(default_factory=list)  # (row, checkpoint id)
    seeds: dict[str, tuple[int, int]] = field(default_factory=dict)  # (place in path, row)

    @property
    def missing(self) -> list[str]:
        return [name for name in self.channels if name not in self.seeds]

    def reach(self, name: str) -> int:
        """How many of the path's ancestors count for a channel."""
        return self.seeds[name][0] + 1 if name in self.seeds else len(self.path)


def history(
    address: Address, channels: Sequence[str]
) -> Callable[[Context], Operation[dict[str, DeltaChannelHistory]]]:
    """For each channel its seed (if there is one) and the writes since, oldest first."""

    def make(context: Context) -> Operation[dict[str, DeltaChannelHistory]]:
        return lambda session: _history(session, context, address, list(dict.fromkeys(channels)))

    return make


def _history(
    session: Session, context: Context, address: Address, channels: list[str]
) -> dict[str, DeltaChannelHistory]:
    walk = _Walk(channels)
    parent = _target_parent(session, context, address)
    while parent is not None and walk.missing:
        ancestors = _ancestors(session, context, address, parent)
        _find_seeds(session, context, walk, ancestors)
        oldest = ancestors[-1] if ancestors else None
        more = oldest is not None and len(ancestors) == ROUND
        parent = oldest[2] if more and oldest is not None else None
    values = _values(session, context, walk)
    writes = _writes(session, context, address, walk)
    result: dict[str, DeltaChannelHistory] = {}
    for name in channels:
        entry: DeltaChannelHistory = {"writes": writes[name]}
        if name in values:
            entry["seed"] = values[name]
        result[name] = entry
    return result


def _place(context: Context, address: Address) -> list[Any]:
    table = context.tables.checkpoints
    return [
        table.c.tenant == context.tenant,
        table.c.thread_id == address.thread_id,
        table.c.namespace_key == address.namespace_key,
    ]


def _target_parent(session: Session, context: Context, address: Address) -> str | None:
    table = context.tables.checkpoints
    query = select(table.c.parent_id).where(*_place(context, address), table.c.hidden == 0)
    if address.checkpoint_id is None:
        query = query.order_by(table.c.checkpoint_id.desc()).limit(1)
    else:
        query = query.where(table.c.checkpoint_id == address.checkpoint_id)
    return session.core.scalar(query)


def _ancestors(
    session: Session, context: Context, address: Address, first: str
) -> list[tuple[int, str, str | None]]:
    """Up to `ROUND` ancestors from `first` on, newest first: (row, id, parent's id)."""
    table = context.tables.checkpoints
    columns = (table.c.id, table.c.checkpoint_id, table.c.parent_id)
    base = select(*columns, literal_column("1").label("depth")).where(
        *_place(context, address), table.c.checkpoint_id == first
    )
    chain = base.cte("chain", recursive=True)
    step = select(*columns, (chain.c.depth + 1).label("depth")).where(
        *_place(context, address),
        table.c.checkpoint_id == chain.c.parent_id,
        # A parent is older than its child; a damaged row must not make this endless.
        table.c.checkpoint_id < chain.c.checkpoint_id,
        chain.c.depth < ROUND,
    )
    whole = chain.union_all(step)
    query = select(whole.c.id, whole.c.checkpoint_id, whole.c.parent_id).order_by(whole.c.depth)
    return [
        (row[0], text(row[1]), None if row[2] is None else text(row[2]))
        for row in session.core.execute(query)
    ]


def _find_seeds(
    session: Session,
    context: Context,
    walk: _Walk,
    ancestors: Sequence[tuple[int, str, str | None]],
) -> None:
    start = len(walk.path)
    walk.path.extend((row, checkpoint_id) for row, checkpoint_id, _ in ancestors)
    places = {row: start + place for place, (row, _, _) in enumerate(ancestors)}
    table = context.tables.channels
    if not places:
        return
    found = session.core.execute(
        select(table.c.checkpoint, table.c.channel).where(
            table.c.checkpoint.in_(list(places)), table.c.channel.in_(walk.missing)
        )
    )
    for row, channel in sorted((places[row], text(channel)) for row, channel in found):
        walk.seeds.setdefault(channel, (row, walk.path[row][0]))


def _values(session: Session, context: Context, walk: _Walk) -> dict[str, Any]:
    channels, blobs = context.tables.channels, context.tables.blobs
    values: dict[str, Any] = {}
    for name, (_, row) in walk.seeds.items():
        found = session.core.execute(
            select(channels.c.kind, channels.c.data, channels.c.blob, blobs.c.kind, blobs.c.data)
            .outerjoin(blobs, blobs.c.hash == channels.c.blob)
            .where(channels.c.checkpoint == row, channels.c.channel == name)
        ).one()
        kind, data = (found[3], found[4]) if found[2] is not None else (found[0], found[1])
        values[name] = context.coder.decode(kind, data, found[2])
    return values


def _writes(
    session: Session, context: Context, address: Address, walk: _Walk
) -> dict[str, list[PendingWrite]]:
    """Per channel, the writes on its part of the path, oldest checkpoint first."""
    table, blobs = context.tables.writes, context.tables.blobs
    depth = max((walk.reach(name) for name in walk.channels), default=0)
    places = {checkpoint_id: place for place, (_, checkpoint_id) in enumerate(walk.path[:depth])}
    rows: list[Any] = []
    for part in chunks(list(places)):
        wanted = or_(
            *(
                and_(
                    table.c.channel == name,
                    table.c.checkpoint_id.in_(
                        [entry for entry in part if places[entry] < walk.reach(name)]
                    ),
                )
                for name in walk.channels
            )
        )
        rows += session.core.execute(
            select(
                table.c.checkpoint_id,
                table.c.task_path,
                table.c.task_id,
                table.c.idx,
                table.c.channel,
                table.c.kind,
                table.c.data,
                table.c.blob,
                blobs.c.kind,
                blobs.c.data,
            )
            .outerjoin(blobs, blobs.c.hash == table.c.blob)
            .where(
                table.c.tenant == context.tenant,
                table.c.thread_id == address.thread_id,
                table.c.namespace_key == address.namespace_key,
                wanted,
            )
        ).all()
    rows.sort(key=lambda row: (-places[text(row[0])], text(row[1]), text(row[2]), row[3]))
    writes: dict[str, list[PendingWrite]] = {name: [] for name in walk.channels}
    for row in rows:
        kind, data = (row[8], row[9]) if row[7] is not None else (row[5], row[6])
        value = context.coder.decode(kind, data, row[7])
        writes[text(row[4])].append((text(row[2]), text(row[4]), value))
    return writes
