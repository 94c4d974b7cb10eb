"""The checkpointer that `langgraph.json` names: an async context manager that yields a saver."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deltamem_agents import SQLAlchemySaver


@asynccontextmanager
async def create_checkpointer() -> AsyncIterator[SQLAlchemySaver]:
    """One saver for the server's life; any database that SQLAlchemySaver takes."""
    async with SQLAlchemySaver(os.environ.get("DATABASE_URL") or "sqlite:///agent.db") as saver:
        yield saver
