"""The operations of the hot path, as the database runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from deltamem_agents.checkpoint import reading, writing
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.guard import check_key, guarded
from deltamem_agents.checkpoint.identifiers import Address
from deltamem_agents.checkpoint.rows import Loaded
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.transactions import Job, Operation

T = TypeVar("T")


def get_job(address: Address) -> Callable[[Context], Job[CheckpointTuple | None]]:
    """One checkpoint."""
    return lambda context: Job(lambda session: reading.get(session, context, address))


def put_job(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> Callable[[Context], Job[RunnableConfig]]:
    """Store a checkpoint: by one statement where that is possible."""

    def make(context: Context) -> Job[RunnableConfig]:
        put = writing.prepare(context, config, checkpoint, metadata, new_versions)
        return Job(
            guarded(context, lambda session: writing.put_checkpoint(session, put)),
            write=True,
            quick=lambda session: writing.put_at_once(session, put),
        )

    return make


def writes_job(
    config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
) -> Callable[[Context], Job[bool]]:
    """Store the writes of a task, likewise."""

    def make(context: Context) -> Job[bool]:
        ready = writing.prepare_writes(context, config, writes, task_id, task_path)
        return Job(
            guarded(context, lambda session: writing.put_writes(session, ready)),
            write=True,
            quick=lambda session: writing.writes_at_once(session, ready),
        )

    return make


def page_job(place: reading.Listing, size: int) -> Callable[[Context], Job[list[Loaded]]]:
    """One page of a listing."""

    def make(context: Context) -> Job[list[Loaded]]:
        def operation(session: Session) -> list[Loaded]:
            found = reading.page(session, context, place, size)
            if place.filter is not None:  # by another key its hashes match nothing, silently
                check_key(session, context, hold=False)
            return found

        return Job(operation)

    return make


def managed(make: Callable[[Context], Operation[T]], write: bool) -> Callable[[Context], Job[T]]:
    """An operation beside the hot path."""
    if write:
        return lambda context: Job(guarded(context, make(context)), write, core=True)
    return lambda context: Job(make(context), write, core=True)


def send(pages: Any, loaded: list[Loaded]) -> tuple[reading.Listing, int] | None:
    """Hand a page to `reading.pages`; what to read next, or None at the end."""
    try:
        request: tuple[reading.Listing, int] = pages.send(loaded)
    except StopIteration:
        return None
    return request
