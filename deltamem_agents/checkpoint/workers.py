"""Threads for the async methods on SQLite: one hop there, one hop back.

`ThreadPoolExecutor` wraps each call in two futures, a condition and several locks, which costs
more than reading a checkpoint does. Here the loop's own future is settled from the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """Up to `most` threads, started when they are needed; bound to no event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._guard = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0  # calls that wait or run

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call on a thread; a caller that is cancelled leaves it to finish by itself."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._guard:
            if self._process != os.getpid():
                self._reset()  # threads do not come along into a fork
            if self._open >= len(self._threads) < self.most:
                self._start()
            self._open += 1
            # Under the guard, or `close` could end this queue's threads before the call is in it.
            self._calls.put((loop, future, call))
        return await future

    def _start(self) -> None:
        # A daemon: a process that ends without closing the saver must not wait for it.
        name = f"deltamem-saver-{len(self._threads)}"
        thread = threading.Thread(target=self._work, args=(self._calls,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def _work(self, calls: SimpleQueue[Any]) -> None:
        while (taken := calls.get()) is not None:
            loop, future, call = taken
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:
                error = raised
            with self._guard:
                self._open -= 1
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, future, result, error)
            del taken, loop, future, call, result, error

    def close(self) -> None:
        """Finish what was begun, and end the threads."""
        with self._guard:
            threads, self._threads = self._threads, []
            # A call that comes from now on gets a queue of its own, whose threads nobody ends.
            calls, self._calls = self._calls, SimpleQueue()
            alive = threads if self._process == os.getpid() else []
            for _ in alive:
                calls.put(None)
        for thread in alive:
            if thread is not threading.current_thread():
                thread.join()


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
