"""The threads behind the async methods: none can be had, and an end while calls come."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deltamem_agents.checkpoint.workers import Workers


def _scarce(monkeypatch: pytest.MonkeyPatch, refused: set[int]) -> None:
    """The system refuses these of the threads that are started (0 is the first)."""
    start, begun = threading.Thread.start, []

    def limited(self: threading.Thread) -> None:
        if self.name.startswith("deltamem-saver"):
            begun.append(self.name)
            if len(begun) - 1 in refused:
                raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)


async def test_a_thread_that_cannot_be_had_fails_one_call_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _scarce(monkeypatch, {0})
    workers = Workers(1)
    with pytest.raises(RuntimeError, match="can't start"):
        await workers.run(lambda: 1)
    assert await asyncio.wait_for(workers.run(lambda: 2), 10) == 2
    workers.close()
    assert workers._open == 0


async def test_threads_that_are_there_take_over_for_one_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _scarce(monkeypatch, {1})
    workers = Workers(2)
    found = await asyncio.wait_for(
        asyncio.gather(workers.run(lambda: 1), workers.run(lambda: 2)), 10
    )
    assert list(found) == [1, 2]
    workers.close()


async def test_a_call_while_the_threads_end_is_answered() -> None:
    """The old thread is busy, then must end; it must not eat what was meant for the new one."""
    workers = Workers(1)
    begun, release = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        release.wait(10)
        return "old"

    old = asyncio.ensure_future(workers.run(slow))
    await asyncio.to_thread(begun.wait, 10)
    ending = asyncio.ensure_future(asyncio.to_thread(workers.close))
    while workers._threads:  # until `close` has taken them
        await asyncio.sleep(0.001)
    assert await asyncio.wait_for(workers.run(lambda: "new"), 10) == "new"
    release.set()
    assert await asyncio.wait_for(old, 10) == "old"
    await asyncio.wait_for(ending, 10)
    assert await asyncio.wait_for(workers.run(lambda: "again"), 10) == "again"
    workers.close()
    assert workers._open == 0
