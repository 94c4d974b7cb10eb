"""Asking a model call what it would call, without calling it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from deltamem_agents.graph.settings import MemorySettings
from deltamem_agents.graph.turn import Call


class Captured(BaseException):
    """Carries a call out of a node that was only asked what it would call.

    Not an `Exception`: middleware that retries or falls back must not take it for a failure.
    """

    def __init__(self, call: Call, settings: MemorySettings) -> None:
        super().__init__()
        self.call, self.settings = call, settings


_asking: ContextVar[bool] = ContextVar("deltamem_asking", default=False)


def answer_if_asked(call: Callable[[], Call], settings: MemorySettings) -> None:
    """End a model call that is only asked for its model, prompt and tools."""
    if _asking.get():
        raise Captured(call(), settings)


@contextmanager
def asked() -> Iterator[None]:
    """What calls a model in here is asked only."""
    token = _asking.set(True)
    try:
        yield
    finally:
        _asking.reset(token)
