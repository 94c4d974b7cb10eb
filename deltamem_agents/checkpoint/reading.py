"""Reading: one checkpoint, a listing page by page, the history of DeltaChannels."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.checkpoint import identifiers as ids
from deltamem_agents.checkpoint import metadata as meta
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.identifiers import Address, identifier
from deltamem_agents.checkpoint.rows import Loaded, assemble
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.errors import ConfigError

PAGE = 50


def get(session: Session, context: Context, address: Address) -> CheckpointTuple | None:
    """The checkpoint that the address names, or the newest of its namespace."""
    statement = session.statements.get(address.checkpoint_id is None)
    loaded = assemble(session.rows(statement, context.at(address)), context.coder)
    return loaded[0].value if loaded else None


@dataclass(frozen=True)
class Listing:
    """What is to be listed, and how far the listing has come."""

    thread_id: str | None = None
    namespace_key: bytes | None = None
    checkpoint_id: str | None = None
    before: str | None = None
    filter: Mapping[str, Any] | None = None
    last: str | None = None
    last_row: int = 0

    def after(self, loaded: Loaded) -> Listing:
        """The rest of the listing, below this checkpoint."""
        configurable = loaded.value.config["configurable"]
        return replace(self, last=configurable["checkpoint_id"], last_row=loaded.row)


def listing(
    config: RunnableConfig | None,
    filter: Mapping[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
) -> Listing:
    """Check the arguments of `list`."""
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise ConfigError(
            "limit is a number of checkpoints, 0 or more",
            got=limit,
            remedy="Leave it out for all checkpoints.",
        )
    place: dict[str, Any] = {}
    if config is not None:
        address = ids.address_of(config)
        place = {"thread_id": address.thread_id, "checkpoint_id": address.checkpoint_id}
        if config["configurable"].get("checkpoint_ns") is not None:
            place["namespace_key"] = address.namespace_key
    if before is not None:
        if not isinstance(before.get("configurable"), Mapping):
            raise ConfigError(
                "before is a config",
                got=before,
                remedy="Pass the config of a checkpoint, as `list` and `put` return it.",
            )
        bound = before["configurable"].get("checkpoint_id")
        if bound:
            place["before"] = identifier(bound, "checkpoint_id", ids.CHECKPOINT_BYTES)
    for value in (filter or {}).values():
        meta.canonical(value)
    return Listing(filter=filter or None, **place)


def page(session: Session, context: Context, wanted: Listing, size: int) -> list[Loaded]:
    """The next `size` rows that SQL selects; the filter's exact meaning is applied after."""
    terms = [
        meta.term(name, value, context.coder.salt) for name, value in (wanted.filter or {}).items()
    ]
    statement = session.statements.page(
        thread=wanted.thread_id is not None,
        namespace=wanted.namespace_key is not None,
        checkpoint=wanted.checkpoint_id is not None,
        before=wanted.before is not None,
        after=wanted.last is not None,
        terms=len(terms),
    )
    parameters = {
        "tenant": context.tenant,
        "thread_id": wanted.thread_id,
        "namespace_key": wanted.namespace_key,
        "checkpoint_id": wanted.checkpoint_id,
        "before": wanted.before,
        "last": wanted.last,
        "last_row": wanted.last_row,
        "size": size,
        **{f"term{place}": value for place, value in enumerate(terms)},
    }
    return assemble(session.rows(statement, parameters), context.coder)


def pages(wanted: Listing, limit: int | None) -> Generator[tuple[Listing, int], list[Loaded], None]:
    """Which pages to read, one after another, until there is nothing left or enough.

    Yields what to read next and is sent the rows; the transports run it, sync or async.
    """
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(left, PAGE)
        rows = yield wanted, size
        if left is not None:
            left -= sum(1 for row in rows if selected(row, wanted))
        if len(rows) < size:
            return
        wanted = wanted.after(rows[-1])


def selected(loaded: Loaded, wanted: Listing) -> bool:
    """Whether the filter really selects this row (SQL compares hashes only)."""
    return wanted.filter is None or meta.matches(loaded.value.metadata, wanted.filter)
