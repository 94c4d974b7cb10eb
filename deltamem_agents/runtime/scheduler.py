"""One thread that runs the model for all sessions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deltamem_agents.errors import QueueFullError
from deltamem_agents.runtime.runner import Runner
from deltamem_agents.runtime.session import Feed

_IDLE_SECONDS = 5.0


@dataclass(eq=False)
class Job:
    """A turn in work.

    Args:
        steps: yields what to read and is sent the logits.
        done: is called once, with the error that ended the turn or None.
        feed: what it waits for.
        cancelled: set from any thread; the turn ends before its next token.
    """

    steps: Generator[Feed, Tensor, None]
    done: Callable[[BaseException | None], None]
    feed: Feed | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        """End the turn before its next token."""
        self.cancelled = True


class Scheduler:
    """Runs turns side by side, in a thread that ends when it has had nothing to do for a while.

    Args:
        runner: the model.
        queue_size: most turns in work and waiting.
    """

    def __init__(self, runner: Runner, *, queue_size: int = 256) -> None:
        self.runner = runner
        self.queue_size = queue_size
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Queue a turn.

        Raises:
            QueueFullError: too many turns are waiting.
        """
        with self._changed:
            if len(self._waiting) + len(self._active) >= self.queue_size:
                raise QueueFullError(
                    f"at most queue_size={self.queue_size} turns are in work or waiting",
                    got=f"{self.queue_size + 1} turns",
                    remedy="Retry later, or raise queue_size.",
                )
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="deltamem", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                if not self._active and not self._waiting:
                    self._changed.wait(_IDLE_SECONDS)
                    if not self._waiting:
                        self._thread = None
                        return
                arrived = list(self._waiting)
                self._waiting.clear()
                self._active += arrived
            for job in arrived:
                self._advance(job, None)
            self._round()

    def _round(self) -> None:
        for job in list(self._active):
            if job.cancelled:
                self._end(job, None)
            elif job.feed is not None:
                try:
                    logits = self.runner.run(job.feed)
                except Exception as error:
                    self._fail(job, error)
                else:
                    self._advance(job, logits)

    def _advance(self, job: Job, logits: Tensor | None) -> None:
        try:
            job.feed = next(job.steps) if logits is None else job.steps.send(logits)
        except StopIteration:
            self._end(job, None)
        except BaseException as error:
            self._end(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        try:
            job.steps.throw(error)
        except BaseException as raised:
            self._end(job, raised)

    def _end(self, job: Job, error: BaseException | None) -> None:
        job.steps.close()
        with self._changed:
            if job in self._active:
                self._active.remove(job)
        job.feed = None
        job.done(error)


Done = Callable[[BaseException | None], None]
Emit = Callable[[Any], None]
