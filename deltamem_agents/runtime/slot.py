"""A call's way in and out: the memory before it, and the memory after its last token."""

from __future__ import annotations

import threading

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import StateError


class MemorySlot:
    """Carries one call's memory to a model and back.

    `before` is fixed. `after` is None until the call's last token, and is set exactly once; a call
    that fails or is cancelled leaves it None.

    Args:
        before: the memory that the call starts from; None for an empty one.
    """

    __slots__ = ("_after", "_before", "_lock")

    def __init__(self, before: MemoryState | None = None) -> None:
        if before is not None and not isinstance(before, MemoryState):
            raise StateError(
                "a slot carries a MemoryState or None",
                got=type(before).__name__,
                remedy="Load one with MemoryState.load(path), or pass None to begin empty.",
            )
        self._before = before
        self._after: MemoryState | None = None
        self._lock = threading.Lock()

    @property
    def before(self) -> MemoryState | None:
        """The memory that the call starts from."""
        return self._before

    @property
    def after(self) -> MemoryState | None:
        """The memory after the call's last token; None until then."""
        return self._after

    def fill(self, after: MemoryState) -> None:
        """Set `after`.

        Raises:
            StateError: it was set before.
        """
        with self._lock:
            if self._after is not None:
                raise StateError(
                    "a slot serves one call",
                    got=self._after,
                    remedy="Make a MemorySlot for each call.",
                )
            self._after = after

    def __repr__(self) -> str:
        return f"MemorySlot(before={self._before!r}, after={self._after!r})"
