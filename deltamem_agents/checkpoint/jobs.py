"""The operations of the hot path, as the database runs them."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig

from deltamem_agents.checkpoint import reading, writing
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.rows import Loaded
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.transactions import Job


def put_job(put: writing.Put) -> Job[RunnableConfig]:
    """Store a checkpoint: by one statement where that is possible."""
    return Job(
        lambda session: writing.put_checkpoint(session, put),
        write=True,
        quick=lambda session: writing.put_at_once(session, put),
    )


def writes_job(ready: writing.Writes) -> Job[bool]:
    """Store the writes of a task, likewise."""
    return Job(
        lambda session: writing.put_writes(session, ready),
        write=True,
        quick=lambda session: writing.writes_at_once(session, ready),
    )


def page_job(context: Context, place: reading.Listing, size: int) -> Job[list[Loaded]]:
    """One page of a listing."""

    def operation(session: Session) -> list[Loaded]:
        return reading.page(session, context, place, size)

    return Job(operation)


def send(pages: Any, loaded: list[Loaded]) -> tuple[reading.Listing, int] | None:
    """Hand a page to `reading.pages`; what to read next, or None at the end."""
    try:
        request: tuple[reading.Listing, int] = pages.send(loaded)
    except StopIteration:
        return None
    return request
