"""Results kept for texts that come again at once: short ones only, until something is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
LONGEST = 400  # characters of a text; longer ones are read anew each time
_clear: list[Callable[[], None]] = []


def kept(most: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keeps the results of the last `most` calls without long texts among the arguments."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        cached = lru_cache(maxsize=most)(function)
        _clear.append(cached.cache_clear)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for arg in args:
                if isinstance(arg, str) and len(arg) > LONGEST:
                    return function(*args, **kwargs)
            return cached(*args, **kwargs)  # type: ignore[arg-type]

        return call

    return wrap


def clear() -> None:
    """Lets go of all that is kept, of every tenant: texts that were forgotten stay nowhere."""
    for one in _clear:
        one()
