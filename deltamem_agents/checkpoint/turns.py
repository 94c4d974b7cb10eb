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
from collections import deque
from collections.abc import Callable
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
        self.done, self.result, self.error = True, result, error


class Turns:
    """The turns of one saver's writers."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._waiting: deque[_Call] = deque()

    @property
    def lock(self) -> threading.RLock:
        """Held by whose turn it is, inside one operation only.

        Waiting for it is fair and short, where SQLite's own waiting sleeps.
        """
        if self._process != os.getpid():
            self._reset()  # the threads that hold it and wait stay behind in the parent
        return self._lock

    def run(self, job: Job[T], carry_out: Callable[[Job[Any]], Any]) -> T:
        """Carry out an operation, by `carry_out` in a transaction, in this thread or another."""
        call, lock = _Call(job), self.lock
        self._waiting.append(call)
        try:
            with lock:
                while not call.done:
                    self._turn(carry_out)
        except BaseException:  # an interrupt: nobody waits for it any more
            with contextlib.suppress(ValueError):
                self._waiting.remove(call)
            raise
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def _turn(self, carry_out: Callable[[Job[Any]], Any]) -> None:
        calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
        try:
            if len(calls) > 1:
                _together(calls, carry_out)
            for call in calls:
                if not call.done:
                    _alone(call, carry_out)
        finally:
            self._waiting.extendleft(call for call in reversed(calls) if not call.done)


def _together(calls: list[_Call], carry_out: Callable[[Job[Any]], Any]) -> None:
    whole = Job(lambda session: [call.job.operation(session) for call in calls], write=True)
    try:
        results = carry_out(whole)
    except StorageBusyError as error:  # another process: it would not let each of them in either
        for call in calls:
            call.end(error=error)
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
