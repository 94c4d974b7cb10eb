"""How a graph keeps its memory: what its author chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError
from deltamem_agents.router import HybridRouter

OnDivergence = Literal["rebuild", "raise"]


@dataclass(frozen=True)
class MemorySettings:
    """How a graph keeps its memory.

    Args:
        router: sends exact questions to a fact store; None answers from the weights alone.
        on_divergence: what happens when messages that the memory holds were edited, inserted,
            removed or reordered: "rebuild" replays from the nearest checkpoint that still agrees,
            "raise" raises `DivergenceError`.
        start: the memory that new threads begin with; see `read_once`.

    Raises:
        ConfigError: `router`, `on_divergence` or `start` is none of these.
    """

    router: HybridRouter | None = None
    on_divergence: OnDivergence = "rebuild"
    start: MemoryState | None = None

    def __post_init__(self) -> None:
        if self.router is not None and not isinstance(self.router, HybridRouter):
            raise ConfigError(
                "router is a HybridRouter",
                got=type(self.router).__name__,
                remedy="Pass HybridRouter(FactStore(saver)), or leave it out.",
            )
        if self.on_divergence not in ("rebuild", "raise"):
            raise ConfigError(
                "on_divergence is 'rebuild' or 'raise'",
                got=self.on_divergence,
                remedy="Leave it out for 'rebuild'.",
            )
        if self.start is not None and not isinstance(self.start, MemoryState):
            raise ConfigError(
                "start is a MemoryState",
                got=type(self.start).__name__,
                remedy="Load it with MemoryState.load(path) or make it with read_once(...).",
            )
