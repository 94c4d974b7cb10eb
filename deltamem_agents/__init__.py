"""Working memory for LangGraph agents that lives inside the model (δ-mem).

Names are loaded when they are first used: `import deltamem_agents` loads neither torch nor
LangChain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltamem_agents.adapter import (
        DeltaMemConfig,
        attach,
        detach,
        load_adapter,
        save_adapter,
    )
    from deltamem_agents.chat.model import ChatDeltaMem
    from deltamem_agents.checkpoint import SQLAlchemySaver
    from deltamem_agents.core.state import MemoryState
    from deltamem_agents.errors import DeltaMemError
    from deltamem_agents.graph.middleware import DeltaMemMiddleware
    from deltamem_agents.graph.nodes import memory_node
    from deltamem_agents.graph.operators import ThreadMemory
    from deltamem_agents.graph.state import MemoryAgentState
    from deltamem_agents.inspect.plots import plot_memory, plot_writes
    from deltamem_agents.router import FactStore, HybridRouter
    from deltamem_agents.runtime.slot import MemorySlot

__version__ = "0.1.0"

__all__ = [
    "ChatDeltaMem",
    "DeltaMemConfig",
    "DeltaMemError",
    "DeltaMemMiddleware",
    "FactStore",
    "HybridRouter",
    "MemoryAgentState",
    "MemorySlot",
    "MemoryState",
    "SQLAlchemySaver",
    "ThreadMemory",
    "attach",
    "detach",
    "load_adapter",
    "memory_node",
    "plot_memory",
    "plot_writes",
    "save_adapter",
]

_HOMES = {
    "ChatDeltaMem": "chat.model",
    "DeltaMemConfig": "adapter",
    "DeltaMemError": "errors",
    "DeltaMemMiddleware": "graph.middleware",
    "FactStore": "router",
    "HybridRouter": "router",
    "MemoryAgentState": "graph.state",
    "MemorySlot": "runtime.slot",
    "MemoryState": "core.state",
    "SQLAlchemySaver": "checkpoint",
    "ThreadMemory": "graph.operators",
    "attach": "adapter",
    "detach": "adapter",
    "load_adapter": "adapter",
    "memory_node": "graph.nodes",
    "plot_memory": "inspect.plots",
    "plot_writes": "inspect.plots",
    "save_adapter": "adapter",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
