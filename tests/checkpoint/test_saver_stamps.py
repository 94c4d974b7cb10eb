"""A rewrite that was worked out from what a thread held is refused where the thread has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.rewriting import (
    Rewrite,
    arewrite_checkpoints,
    rewrite_checkpoints,
)
from deltamem_agents.checkpoint.stamps import athread_stamp, thread_stamp
from deltamem_agents.errors import ConflictError
from tests.checkpoint.helpers import config, memory, put

CHANGES: dict[str, Callable[[SQLAlchemySaver, Any], Any]] = {
    "checkpoint": lambda saver, place: put(saver, place, {"x": "next"}),
    "agent inside": lambda saver, place: put(saver, config(namespace="child"), {"x": 1}),
    "writes": lambda saver, place: saver.put_writes(place, [("x", "w")], "task"),
    "writes before their checkpoint": lambda saver, place: saver.put_writes(
        {"configurable": {**place["configurable"], "checkpoint_id": "f" * 32}}, [("x", "w")], "t"
    ),
    "pruning": lambda saver, place: saver.retain("t", keep_last=1),
    "rewriting": lambda saver, place: rewrite_checkpoints(saver, [rewrite_of(saver, "other")]),
}


def rewrite_of(saver: SQLAlchemySaver, value: str) -> Rewrite:
    """The newest checkpoint with another value, its version as it was."""
    newest = saver.get_tuple(config())
    assert newest is not None
    new: Any = {**newest.checkpoint, "channel_values": {"x": value}}
    return Rewrite(newest.parent_config or config(), new, newest.metadata)


def filled(saver: SQLAlchemySaver) -> Any:
    first = put(saver, config(), {"x": "long " * 200, "m": memory(1)})
    place = put(saver, first, {"x": "there"})
    saver.put_writes(place, [("x", "waits")], "first task")
    return place


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_of_the_thread_is_seen(url: str, name: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = filled(saver)
        stamp = thread_stamp(saver, "t")
        put(saver, config("another"), {"x": "not ours"})
        assert thread_stamp(saver, "t") == stamp
        rewrite = rewrite_of(saver, "stale")
        CHANGES[name](saver, place)
        before = saver.get_tuple(place)
        beside: list[Connection] = []
        with pytest.raises(ConflictError, match="others wrote meanwhile"):
            rewrite_checkpoints(saver, [rewrite], beside.append, stamp)
        assert not beside, "nothing of the transaction is begun"
        assert saver.get_tuple(place) == before
        rewrite_checkpoints(saver, [rewrite], beside.append, thread_stamp(saver, "t"))
        assert len(beside) == 1
        after = saver.get_tuple(place)
        assert after is not None
        assert after.checkpoint["channel_values"] == {"x": "stale"}


async def test_a_change_is_seen_from_a_coroutine(url: str) -> None:
    async with SQLAlchemySaver(url) as saver:
        place = filled(saver)
        stamp = await athread_stamp(saver, "t")
        rewrite = rewrite_of(saver, "stale")
        assert (await arewrite_checkpoints(saver, [rewrite], read=stamp)).writes == 1
        with pytest.raises(ConflictError):
            await arewrite_checkpoints(saver, [rewrite], read=stamp)
        after = await saver.aget_tuple(place)
        assert after is not None
        assert after.checkpoint["channel_values"] == {"x": "stale"}


@pytest.mark.parametrize("backend", ["postgresql"])
def test_on_postgresql_writers_wait_until_a_rewrite_ends(url: str, backend: str) -> None:
    with SQLAlchemySaver(url) as saver:
        filled(saver)
        locked: list[str] = []

        def look(connection: Connection) -> None:
            query = "SELECT relation::regclass::text FROM pg_locks WHERE mode = :mode AND granted"
            mode = {"mode": "ShareRowExclusiveLock"}
            locked.extend(row[0] for row in connection.execute(text(query), mode))

        rewrite_checkpoints(saver, [rewrite_of(saver, "new")], look, thread_stamp(saver, "t"))
        assert sorted(locked) == ["checkpoints", "writes"]


def test_writes_that_stay_are_told_by_task_and_channel(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = filled(saver)
        many = [f"task {number:04}" for number in range(900)]
        for task in many:
            saver.put_writes(place, [("x", task), ("y", task)], task)
        rewrite = rewrite_of(saver, "new")
        kept = frozenset({*((task, "x") for task in many), ("task 0007", "y")})
        removal = rewrite_checkpoints(
            saver, [Rewrite(rewrite.config, rewrite.checkpoint, rewrite.metadata, kept=kept)]
        )
        assert removal.writes == 900
        after = saver.get_tuple(place)
        assert after is not None
        assert {write[:2] for write in after.pending_writes or ()} == kept
