"""Rows of a decode batch: they come and go at any length; a failure leaves nobody half-moved."""

from __future__ import annotations

import pytest
import torch

from deltamem_agents.runtime import batch as batches
from deltamem_agents.runtime.batch import DecodeBatch
from deltamem_agents.runtime.session import Feed, Session
from deltamem_agents.testing import tiny_engine


@pytest.fixture
def engine():
    return tiny_engine()


def read(engine, count: int, first: int = 5) -> Session:
    """A session that has read some tokens."""
    session = engine.new_session(engine.empty_state().state)
    ids = [first + n % 200 for n in range(count)]
    engine.runner.forward([Feed(session, ids, [True] * count)])
    session.length = count
    return session


def say(engine, sessions, token: int) -> list[torch.Tensor]:
    """One decode step of all sessions."""
    logits = engine.runner.forward([Feed(s, [token], [True]) for s in sessions])
    for session in sessions:
        session.length += 1
    return logits


LENGTHS = [3, 300, 20, 270, 1, 600]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_of_any_length_come_and_go(monkeypatch, attention):
    """Short before long, long before short, across the edges of buffers: as each one alone."""
    monkeypatch.setattr(batches, "_STEP", 16)
    engine = tiny_engine()
    engine.model.set_attn_implementation(attention)
    engine.runner.batch = DecodeBatch(engine.model, engine.runner.device)
    alone = {}
    for length in LENGTHS:
        session = read(engine, length)
        alone[length] = [say(engine, [session], 7 + step)[0] for step in range(60)]
        session.leave_batch()
    together = {length: read(engine, length) for length in LENGTHS}
    done = dict.fromkeys(LENGTHS, 0)
    compared = 0
    for round_ in range(140):
        # Everybody sits out now and then, so that rows leave, move up and join again.
        here = [n for place, n in enumerate(LENGTHS) if (round_ // 5 + place) % 4 and done[n] < 60]
        for length in here:
            feed = Feed(together[length], [7 + done[length]], [True])
            assert engine.runner.joins(feed)
        feeds = [Feed(together[n], [7 + done[n]], [True]) for n in here]
        for length, logits in zip(here, engine.runner.forward(feeds) if feeds else [], strict=True):
            torch.testing.assert_close(logits, alone[length][done[length]], atol=1e-4, rtol=1e-4)
            together[length].length += 1
            done[length] += 1
            compared += 1
    assert compared == 60 * len(LENGTHS)
    layer = engine.runner.batch._cache.layers[0] if engine.runner.batch.sessions else None
    assert layer is None or layer.keys.shape[2] <= 4 * max(LENGTHS)


def test_columns_are_used_again():
    """A batch that is never empty does not grow with what its sessions have left behind."""
    engine = tiny_engine()
    first, second = read(engine, 4), read(engine, 4)
    say(engine, [first, second], 9)
    for turn in range(1500):
        fresh = read(engine, 4, first=5 + turn % 50)
        first, second = second, fresh
        say(engine, [first, second], 9)
    assert engine.runner.batch._cache.layers[0].keys.shape[2] <= 512


@pytest.mark.parametrize("length", [4, 40])
def test_a_join_that_fails_leaves_everybody_whole(engine, length):
    """Of the joining session nothing stays in the batch, and it can join later."""
    lengths = (8, 12)
    alone = [say(engine, [read(engine, n)], 9)[0] for n in (*lengths, length)]
    others = [read(engine, n) for n in lengths]
    batch, late = engine.runner.batch, read(engine, length)
    for session in others:
        batch.join(session)
    damaged = late.cache.layers[1]
    values, damaged.values = damaged.values, damaged.values[..., :3]
    with pytest.raises(RuntimeError, match="expand"):
        engine.runner.forward([Feed(s, [9], [True]) for s in (*others, late)])
    assert late.batch is None
    assert late not in batch.sessions
    assert not batch.sessions or batch._cache.memory.shape[0] == len(batch.sessions)
    damaged.values = values
    for logits, expected in zip(say(engine, [*others, late], 9), alone, strict=True):
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert batch._cache.memory.shape[0] == 3


def test_a_step_that_fails_can_be_made_again(engine, monkeypatch):
    sessions = [read(engine, n) for n in (8, 12)]
    say(engine, sessions, 9)
    memories = [session.memory for session in sessions]
    expected = say(engine, sessions, 11)
    again = [read(engine, n) for n in (8, 12)]
    say(engine, again, 9)
    second = list(engine.model.model.layers)[1]

    def fails(*_):
        raise RuntimeError("the device is gone")

    hook = second.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        engine.runner.forward([Feed(s, [11], [True]) for s in again])
    hook.remove()
    for session, memory in zip(again, memories, strict=True):
        session.back_to(session.length, memory, 0)
    for one, other in zip(expected, say(engine, again, 11), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
