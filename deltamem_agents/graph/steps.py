"""One body for sync and async: logic as a generator of effects, two drivers that perform them.

A generator yields an `Effect`, is sent its result or thrown its error, and returns its own result.
`run` performs effects where it stands; `arun` awaits those that have an async form and moves the
others (a forward pass, a query of a sync store) to a thread, so that the event loop stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Effect:
    """Something to be done outside the generator.

    Args:
        call: does it, in the calling thread.
        acall: does it without blocking the event loop; None moves `call` to a thread.
    """

    call: Callable[[], Any]
    acall: Callable[[], Awaitable[Any]] | None = None


Steps = Generator[Effect, Any, Result]


def run(steps: Steps[Result]) -> Result:
    """Drive a generator of effects to its result."""
    try:
        effect = next(steps)
        while True:
            try:
                value = effect.call()
            except Exception as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def arun(steps: Steps[Result]) -> Result:
    """The same without blocking the event loop."""
    try:
        effect = next(steps)
        while True:
            try:
                if effect.acall is not None:
                    value = await effect.acall()
                else:
                    value = await asyncio.to_thread(effect.call)
            except Exception as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        steps.close()
