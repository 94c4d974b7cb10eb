"""The memory beside the state: raw numbers under a header, one row that SQL can read."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.core import codec
from deltamem_agents.errors import StateError
from tests.checkpoint.helpers import config, memory, put, values_of


def test_any_channel_with_a_memory_is_raw_fp32_and_a_row(url: str) -> None:
    """Whatever its channel is called; SQL reads all that the row says, and the matrix as it is."""
    held = {"memory": memory(1, tokens=7), "другая память": memory(2, tokens=8)}
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config("t", namespace="child"), {**held, "x": 1})
        rows, blobs = saver._tables.memory_states, saver._tables.blobs
        with saver.engine.connect() as connection:
            found = connection.execute(
                select(rows, blobs.c.kind, blobs.c.data).join(blobs, blobs.c.hash == rows.c.blob)
            ).all()
        assert len(found) == 2
        for row in found:
            state = held[row.channel]
            assert (row.kind, bytes(row.data)) == ("deltamem", codec.encode(state))
            assert state.state.astype("<f4").tobytes() in bytes(row.data)
            assert (row.adapter, row.tokens_written) == (state.fingerprint, state.tokens_written)
            assert (row.layers, row.heads, row.rank) == state.state.shape[:3]
            assert row.norm == pytest.approx(float(state.norm), rel=1e-12)
            assert (row.thread_id, row.bytes) == ("t", state.nbytes)
            assert row.checkpoint_id == place["configurable"]["checkpoint_id"]
        assert values_of(saver, place) == {**held, "x": 1}


def test_a_checkpoint_with_several_memories_wants_the_channel(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"a": memory(1), "b": memory(2)})
        with pytest.raises(StateError, match="one memory"):
            saver.memory_at(place)
        assert saver.memory_at(place, "a") == memory(1)
        assert saver.memory_at(config(), channel="b") == memory(2)
        assert saver.memory_at(place, channel="c") is None
        assert saver.memory_at(config("nobody")) is None


def test_the_course_of_a_memory_is_listed_oldest_first(url: str) -> None:
    """Parents, shape and tokens, by namespace or over all of them; forks included."""
    with SQLAlchemySaver(url) as saver:
        first = put(saver, config(), {"m": memory(1, tokens=3)}, {"m": 1})
        left = put(saver, first, {"m": memory(2, tokens=5)}, {"m": 2})
        right = put(saver, first, {"m": memory(1, tokens=3), "x": 1}, {"m": 1, "x": 1}, {"x": 1})
        child = put(saver, config(namespace="child"), {"own": memory(4, tokens=9)})
        course = saver.memories("t")
        ids = [place["configurable"]["checkpoint_id"] for place in (first, left, right, child)]
        assert [one.checkpoint_id for one in course] == ids[:3]
        assert [one.parent_id for one in course] == [None, ids[0], ids[0]]
        assert [one.tokens_written for one in course] == [3, 5, 3]
        assert {(one.layers, one.heads, one.rank) for one in course} == {(3, 2, 8)}
        every = saver.memories("t", namespace=None)
        assert [(one.namespace, one.channel) for one in every] == [("", "m")] * 3 + [
            ("child", "own")
        ]
        assert [one.checkpoint_id for one in saver.memories("t", namespace="child")] == ids[3:]
        assert saver.memories("nobody") == []
