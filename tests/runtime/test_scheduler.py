"""Many sessions on one model: each gets what it would get alone."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import numpy as np
import pytest

from deltamem_agents.errors import GenerationTimeoutError, QueueFullError
from deltamem_agents.runtime.answer import Final, Options
from deltamem_agents.runtime.reply import TextPart
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.testing import tiny_engine


@pytest.fixture(scope="module")
def engine():
    return tiny_engine(context_window=200)


def options(number: int, tokens: int = 12) -> Options:
    warm = {"temperature": 0.9, "seed": number} if number % 2 else {}
    return Options(sampling=Sampling(max_tokens=tokens, **warm))


def say(number: int, turn: int) -> dict:
    return {"role": "user", "content": f"Session {number} says {'very ' * (number % 7)}{turn}."}


def converse(engine, number: int, turns: int = 3):
    """A whole conversation, one turn after the other; returns its texts and its last memory."""
    state, history = None, []
    for turn in range(turns):
        history.append(say(number, turn))
        *_, final = engine.generate(state, history, options=options(number))
        state = final.state
        history.append(final.message)
    return [message["content"] for message in history], state


async def aconverse(engine, number: int, turns: int = 3):
    state, history = None, []
    for turn in range(turns):
        history.append(say(number, turn))
        async for event in engine.agenerate(state, history, options=options(number)):
            final = event
        state = final.state
        history.append(final.message)
    return [message["content"] for message in history], state


def same(one, other) -> None:
    assert one[0] == other[0]
    assert one[1].ledger == other[1].ledger
    np.testing.assert_allclose(one[1].state, other[1].state, atol=1e-5)


def test_a_batch_equals_each_alone(engine):
    numbers = range(8)
    alone = [converse(engine, number) for number in numbers]
    widths = []
    step = engine.runner.batch.step
    engine.runner.batch.step = lambda feeds: widths.append(len(feeds)) or step(feeds)
    together: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.__setitem__(n, converse(engine, n)))
        for n in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.runner.batch.step = step
    for number in numbers:
        same(alone[number], together[number])
    assert max(widths) >= 4  # they did share forward calls
    assert engine.runner.batch.sessions == []


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_interleaved_sessions_with_cancels_equal_their_solo_runs(engine, seed):
    """64 conversations: threads and tasks on two loops; a third of all calls are cancelled once."""
    draw = random.Random(seed)
    count, turns = (64, 2) if seed == 0 else (24, 3)
    solo = {number: converse(engine, number, turns) for number in range(count)}
    cancels = {n: draw.randrange(turns) for n in range(count) if draw.random() < 0.34}
    results: dict[int, object] = {}

    def in_thread(number: int) -> None:
        state, history = None, []
        for turn in range(turns):
            history.append(say(number, turn))
            if cancels.get(number) == turn:
                events = engine.generate(state, history, options=options(number))
                next(events, None)
                events.close()
            *_, final = engine.generate(state, history, options=options(number))
            state = final.state
            history.append(final.message)
        results[number] = ([m["content"] for m in history], state)

    async def in_task(number: int) -> None:
        if number in cancels:
            task = asyncio.create_task(aconverse(engine, number, turns))
            await asyncio.sleep(draw.random() / 5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        results[number] = await aconverse(engine, number, turns)

    async def loop(numbers) -> None:
        await asyncio.gather(*(in_task(number) for number in numbers))

    threads = [threading.Thread(target=in_thread, args=(n,)) for n in range(0, count, 2)]
    threads += [
        threading.Thread(target=lambda s=s: asyncio.run(loop(range(s, count, 4)))) for s in (1, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    for number in range(count):
        same(solo[number], results[number])
    assert engine.runner.batch.sessions == []


def test_closing_a_stream_stops_within_a_token_and_leaves_the_memory(engine):
    history = [say(1, 1)]
    *_, final = engine.generate(None, history, options=options(2))
    state, history = final.state, [*history, final.message, say(1, 2)]
    fed = []
    forward = engine.runner.forward
    engine.runner.forward = lambda feeds: fed.append(len(feeds)) or forward(feeds)
    events = engine.generate(state, history, options=options(2, tokens=100))
    assert isinstance(next(events), TextPart)
    events.close()
    before = len(fed)
    time.sleep(0.5)
    engine.runner.forward = forward
    assert len(fed) <= before + 1  # the call that was under way
    *_, after = engine.generate(state, history, options=options(2))
    assert after.usage.cached_tokens > 0  # the live session was given back as it was
    engine.live.clear()
    *_, cold = engine.generate(state, history, options=options(2))
    assert cold.message == after.message
    np.testing.assert_allclose(cold.state.state, after.state.state, atol=1e-5)


def test_the_first_token_does_not_wait_for_anothers_last(engine):
    long = engine.generate(None, [say(0, 0)], options=options(0, tokens=400))
    next(long)
    seen = []
    for event in engine.generate(None, [say(3, 0)], options=options(2, tokens=4)):
        seen.append(event)
    assert isinstance(seen[-1], Final)
    later = list(long)
    assert len(later) > 20


def test_queue_is_bounded_and_errors_reach_the_caller(engine, monkeypatch):
    monkeypatch.setattr(engine.scheduler, "queue_size", 1)
    first = engine.generate(None, [say(0, 0)], options=options(0, tokens=300))
    next(first)
    with pytest.raises(QueueFullError, match="queue_size=1"):
        next(engine.generate(None, [say(1, 0)]))
    first.close()
    monkeypatch.undo()

    def broken(feeds):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine.runner, "forward", broken)
    with pytest.raises(RuntimeError, match="the device is gone"):
        list(engine.generate(None, [say(1, 0)]))
    monkeypatch.undo()
    assert isinstance(list(engine.generate(None, [say(1, 0)], options=options(0)))[-1], Final)


def test_timeout_is_an_error_that_names_it(engine):
    slow = Options(sampling=Sampling(max_tokens=500), timeout=0.0)
    with pytest.raises(GenerationTimeoutError, match=r"timeout=0\.0"):
        list(engine.generate(None, [say(1, 0)], options=slow))


def test_live_sessions_are_bounded_by_bytes():
    engine = tiny_engine(live_bytes=60_000)
    for number in range(12):
        converse(engine, number, turns=1)
    assert 0 < engine.live.nbytes <= 60_000
    assert 1 <= len(engine.live) < 12


def test_a_forward_that_fails_between_layers_leaves_no_half_read_session(engine):
    asked = [say(7, 0)]
    told = turn_on(engine, None, asked)
    again = [*asked, told.message, say(7, 1)]
    second = list(engine.model.model.layers)[1]

    def fails(*_):
        raise RuntimeError("the device is gone")

    hook = second.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        turn_on(engine, told.state, again)
    hook.remove()
    after = turn_on(engine, told.state, again)
    fresh = tiny_engine()
    undisturbed = turn_on(fresh, told.state, again)
    assert after.message == undisturbed.message
    np.testing.assert_allclose(after.state.state, undisturbed.state.state, atol=1e-5)


def turn_on(engine, state, messages):
    *_, final = engine.generate(state, messages, options=options(0))
    return final
