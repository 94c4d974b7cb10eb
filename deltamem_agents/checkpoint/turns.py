"""Writers of one SQLite file: one at a time, and those that wait share the next commit.

A commit is one wait for the disk, however much it holds. Whoever gets its turn carries out what all
the others wait for too, in one transaction; they find it done. Each operation is still whole or
not at all: where one of them fails, none of the transaction is kept, and each is carried out by
itself, so that the error goes to whom it belongs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

from deltamem_agents.checkpoint.transactions import Job
from deltamem_agents.errors import StorageBusyError

T = TypeVar("T")
MOST = 64  # operations a commit


class _Call:
    """An operation that waits, and what became of it."""

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    def end(self, result: Any = None, error: Exception | None = None) -> None:
        # An interrupt may come in between: `done` is last.
        self.result, self.error, self.done = result, error, True


class _Queue:
    """Who waits, and the lock of whose turn it is; held together, so that none is without both."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.waiting: deque[_Call] = deque()


class Turns:
    """The turns of one saver's writers."""

    def __init__(self) -> None:
        self._queue = _Queue()
        _ALL.add(self)

    @property
    def lock(self) -> threading.RLock:
        """Held by whose turn it is, inside one operation only.

        Waiting for it is fair and short, where SQLite's own waiting sleeps.
        """
        return self._queue.lock

    def run(self, job: Job[T], carry_out: Callable[[Job[Any]], Any]) -> T:
        """Carry out an operation, by `carry_out` in a transaction, in this thread or another."""
        call, queue = _Call(job), self._queue
        try:
            queue.waiting.append(call)
            with queue.lock:
                while not call.done:
                    if not _turn(queue.waiting, carry_out):
                        queue.waiting.append(call)  # an interrupt of whoever took it lost it
        except BaseException:  # an interrupt: nobody waits for it any more
            with contextlib.suppress(ValueError):
                queue.waiting.remove(call)
            raise
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result


_ALL: weakref.WeakSet[Turns] = weakref.WeakSet()


def _start_over() -> None:
    """In a child process: the threads that hold the lock and wait stay behind in the parent."""
    for turns in _ALL:
        turns._queue = _Queue()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


def _turn(waiting: deque[_Call], carry_out: Callable[[Job[Any]], Any]) -> bool:
    """Carry out what waits, as far as one commit takes it; whether there was anything."""
    calls: list[_Call] = []
    try:
        while waiting and len(calls) < MOST:
            calls.append(waiting.popleft())
        if len(calls) > 1:
            _together(calls, carry_out)
        for call in calls:
            if not call.done:
                _alone(call, carry_out)
    finally:
        waiting.extendleft(call for call in reversed(calls) if not call.done)
    return bool(calls)


def _together(calls: list[_Call], carry_out: Callable[[Job[Any]], Any]) -> None:
    whole = Job(lambda session: [call.job.operation(session) for call in calls], write=True)
    try:
        results = carry_out(whole)
    except StorageBusyError as error:  # another process: it would not let each of them in either
        for call in calls:
            call.end(error=copy(error))  # each is raised in a thread of its own
    except Exception:
        return
    else:
        for call, result in zip(calls, results, strict=True):
            call.end(result)


def _alone(call: _Call, carry_out: Callable[[Job[Any]], Any]) -> None:
    try:
        call.end(carry_out(call.job))
    except Exception as error:
        call.end(error=error)
