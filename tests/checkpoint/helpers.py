"""Checkpoints, memories and databases for the tests."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from sqlalchemy import make_url

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.core.state import Ledger, MemoryState


def config(thread: Any = "t", checkpoint_id: str | None = None, namespace: str = "") -> Any:
    place = {"thread_id": thread, "checkpoint_ns": namespace}
    if checkpoint_id is not None:
        place["checkpoint_id"] = checkpoint_id
    return {"configurable": place}


def checkpoint(values: dict[str, Any], versions: dict[str, Any] | None = None) -> Checkpoint:
    made = empty_checkpoint()
    made["id"] = str(uuid6())
    made["channel_values"] = values
    made["channel_versions"] = versions or dict.fromkeys(values, "1")
    return made


def put(
    saver: SQLAlchemySaver,
    place: Any,
    values: dict[str, Any],
    versions: dict[str, Any] | None = None,
    new: dict[str, Any] | None = None,
    **metadata: Any,
) -> Any:
    """Store a checkpoint; all channels are new unless `new` says which."""
    made = checkpoint(values, versions)
    about: Any = {"source": "loop", "step": 0, "parents": {}, **metadata}
    return saver.put(place, made, about, made["channel_versions"] if new is None else new)


def values_of(saver: SQLAlchemySaver, place: Any) -> dict[str, Any]:
    found = saver.get_tuple(place)
    assert found is not None
    return found.checkpoint["channel_values"]


def memory(seed: int = 0, tokens: int = 7) -> MemoryState:
    random = np.random.default_rng(seed)
    state, boundary = random.standard_normal((2, 3, 2, 8, 8)).astype(np.float32)
    ledger = Ledger(evicted="ab", evicted_count=3, visible=("01", "02"), pinned="ff")
    return MemoryState(state, boundary, ledger, tokens, "5" * 64)


def sqlite_path(url: str) -> Path:
    path = make_url(url).database
    assert path is not None
    return Path(path)


def bytes_of(url: str) -> bytes:
    """Everything that a SQLite database has on disk: the file, its log, its shared memory."""
    path = sqlite_path(url)
    return b"".join(
        part.read_bytes()
        for part in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm"))
        if part.exists()
    )


def sqlite_rows(url: str, query: str) -> list[Any]:
    connection = sqlite3.connect(sqlite_path(url))
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
