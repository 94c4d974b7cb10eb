"""One thread that runs the model for all sessions."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import Tensor

from deltamem_agents.errors import QueueFullError
from deltamem_agents.runtime.runner import Runner
from deltamem_agents.runtime.session import Feed

_IDLE_SECONDS = 5.0
_STOP_SECONDS = 10.0
_LIVE: weakref.WeakSet[Scheduler] = weakref.WeakSet()


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
        batch_size: most replies that one forward call goes on with.
    """

    def __init__(self, runner: Runner, *, queue_size: int = 256, batch_size: int = 64) -> None:
        self.runner = runner
        self.batch_size = batch_size
        self.queue_size = queue_size
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        _LIVE.add(self)

    def stop(self) -> None:
        """Cancel what is in work and wait for the thread to end."""
        with self._changed:
            self._stopping = True
            for job in (*self._active, *self._waiting):
                job.cancel()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_SECONDS)

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
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="deltamem", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                if not self._active and not self._waiting:
                    if not self._stopping:
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
        """One token of every reply, then a piece of one prompt: nobody waits for another's end."""
        for job in [job for job in self._active if job.cancelled]:
            self._end(job, RuntimeError("the turn was cancelled"))
        decoding = [job for job in self._active if job.feed and self.runner.joins(job.feed)]
        for first in range(0, len(decoding), self.batch_size):
            self._run(decoding[first : first + self.batch_size])
        for job in self._active:
            if job.feed and job not in decoding:
                # The job goes to the end of the line, so that prompts take turns.
                self._active.remove(job)
                self._active.append(job)
                self._run([job])
                return

    def _run(self, jobs: list[Job]) -> None:
        feeds = [job.feed for job in jobs if job.feed is not None]
        try:
            results = self.runner.forward(feeds)
        except Exception as error:
            for job in jobs:
                self._fail(job, error)
            return
        for job, logits in zip(jobs, results, strict=True):
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
        try:
            job.steps.close()
        except Exception as raised:  # whoever waits for this job is told, the others go on
            error = error or raised
        with self._changed:
            if job in self._active:
                self._active.remove(job)
        job.feed = None
        job.done(error)


@atexit.register
def _stop_all() -> None:
    """End every thread before the interpreter does: torch aborts the process if it is killed."""
    for scheduler in list(_LIVE):
        scheduler.stop()
