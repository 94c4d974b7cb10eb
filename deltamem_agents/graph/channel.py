"""The graph channel that carries one memory, and what happens when two branches write it.

LangGraph's own last-value channel raises for a second writer, but says nothing of memories. Here
the rule is stated, and a policy can be chosen instead:

- "raise" (default): two branches of one superstep that changed one memory are an error.
- "replay": the memory stays as it was before the branches. Their messages stand in the thread, in
  the order in which the thread holds them, so the next call reads them as new: exact, at the price
  of reading them a second time.
- a function `(before, after) -> memory`: `after` holds each branch's memory, in task order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from langgraph.channels import LastValue

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, ParallelMemoryError

MergeFunction = Callable[[MemoryState | None, Sequence[MemoryState]], MemoryState | None]
MergePolicy = Literal["raise", "replay"] | MergeFunction


class MemoryChannel(LastValue[Any]):
    """Holds the memory of a thread; `merge` decides about two writers in one superstep.

    A branch that hands back the memory it was given counts as no writer.

    Raises:
        ConfigError: `merge` is neither a policy's name nor a function.
    """

    __slots__ = ("merge",)

    def __init__(self, typ: Any = MemoryState, key: str = "", merge: MergePolicy = "raise") -> None:
        super().__init__(typ, key)
        if merge not in ("raise", "replay") and not callable(merge):
            raise ConfigError(
                "merge is 'raise', 'replay' or a function (before, after) -> memory",
                got=merge,
                remedy="Leave it out for 'raise'.",
            )
        self.merge = merge

    def __eq__(self, value: object) -> bool:
        return isinstance(value, MemoryChannel) and value.merge == self.merge

    __hash__ = None  # type: ignore[assignment]  # as LangGraph's own channels

    def copy(self) -> Self:
        """A channel with the same value and policy."""
        return self.from_checkpoint(self.value)

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """A channel with the same policy and the checkpoint's value."""
        fresh = self.__class__(self.typ, self.key, self.merge)
        fresh.value = checkpoint
        return fresh

    def update(self, values: Sequence[MemoryState | None]) -> bool:
        """Take the step's writes.

        Raises:
            ParallelMemoryError: several branches changed the memory and `merge` is "raise".
        """
        if not values:
            return False
        before = self.value if self.is_available() else None
        changed: list[MemoryState] = []
        for value in values:
            if value is not None and value != before and value not in changed:
                changed.append(value)
        if len(changed) < 2:
            self.value = changed[0] if changed else values[-1]
            return True
        if self.merge == "raise":
            raise ParallelMemoryError(
                "one memory has one writer in a superstep",
                got=f"{len(changed)} branches that changed '{self.key}'",
                remedy="Give each branch its own memory (the default of DeltaMemMiddleware), run "
                "the branches one after another, or choose a policy: merge='replay'.",
            )
        if self.merge == "replay":
            return False
        self.value = self.merge(before, changed)
        return True
