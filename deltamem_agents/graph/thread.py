"""One thread as the operators see it: where it is stored, and how its graph reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, ThreadHistoryError
from deltamem_agents.graph.binding import bound_options, find_model
from deltamem_agents.graph.finding import find_reader
from deltamem_agents.graph.place import Place, place_of_thread
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.saved import memory_in
from deltamem_agents.graph.settings import MemorySettings
from deltamem_agents.graph.steps import Effect, Steps


@dataclass(frozen=True)
class Thread:
    """A thread of a graph.

    Args:
        graph: compiled.
        place: thread, namespace and perhaps a checkpoint.
        config: as the caller gave it.
        model: given by the caller; None asks the graph.
        system_prompt: the same.
        tools: the same.
        context: of a run, for asking the graph.
        router: given by the caller; None takes the graph's.
    """

    graph: Any
    place: Place
    config: RunnableConfig
    model: Any | None = None
    router: Any | None = None
    system_prompt: str | None = None
    tools: Sequence[Any] | None = None
    context: Any = None

    @classmethod
    def of(
        cls,
        graph: Any,
        config: RunnableConfig,
        *,
        model: Any | None = None,
        saver: Any | None = None,
        router: Any | None = None,
        **reads: Any,
    ) -> Thread:
        """Check what the caller gave.

        Raises:
            ThreadHistoryError: no checkpointer, or no thread.
            ConfigError: `model` is no δ-mem model.
        """
        if model is not None and find_model(model) is None:
            raise ConfigError(
                "model is a ChatDeltaMem",
                got=type(model).__name__,
                remedy="Pass ChatDeltaMem(...), or leave it out to find the graph's.",
            )
        held = saver if saver is not None else getattr(graph, "checkpointer", None)
        return cls(graph, place_of_thread(held, config), config, model, router, **reads)

    @property
    def saver(self) -> BaseCheckpointSaver[Any]:
        """The checkpointer."""
        assert self.place.saver is not None  # place_of_thread refuses a graph without one
        return self.place.saver

    def at(self, thread: str) -> Thread:
        """Another thread of the same graph, its newest checkpoint."""
        return replace(self, place=Place(self.saver, thread, self.place.namespace))

    def chained(self, namespace: str) -> dict[str, DeltaChannel[Any]]:
        """The channels of a (sub)graph whose values are kept as changes to older checkpoints.

        Args:
            namespace: of the graph itself, or of one of its nodes that is a graph.
        """
        own, graph = self.place.namespace, self.graph
        if namespace != own:
            inside = namespace.removeprefix(f"{own}|") if own else namespace
            name = "|".join(part.partition(":")[0] for part in inside.split("|"))
            graph = self._inside.get(name)
        channels = getattr(graph, "channels", {})
        return {name: one for name, one in channels.items() if isinstance(one, DeltaChannel)}

    @cached_property
    def _inside(self) -> dict[str, Any]:
        """The graphs that are nodes of this one, and of those."""
        found = getattr(self.graph, "get_subgraphs", None)
        return dict(found(recurse=True)) if found is not None else {}

    def tip(self) -> Steps[CheckpointTuple | None]:
        """The checkpoint that the config names, or the newest, with its values whole."""
        saved = yield from self.place.read()
        held = saved.checkpoint["channel_versions"] if saved else {}
        spread = self.chained(self.place.namespace).keys() & held.keys()
        if saved is None or not spread or getattr(self.graph, "checkpointer", None) is None:
            return saved
        graph, config = self.graph, saved.config
        state = yield Effect(lambda: graph.get_state(config), lambda: graph.aget_state(config))
        whole = {name: state.values[name] for name in spread if name in state.values}
        values = {**saved.checkpoint["channel_values"], **whole}
        return saved._replace(checkpoint={**saved.checkpoint, "channel_values": values})

    def memory(self) -> Steps[MemoryState | None]:
        """The memory there."""
        return memory_in((yield from self.place.read()))

    def reading(self, tip: CheckpointTuple | None) -> Steps[tuple[Reader, MemorySettings]]:
        """How the graph reads, as its next call would; what the caller gave goes before."""
        reader, settings = yield from self._found(tip)
        given: dict[str, Any] = {}
        if self.model is not None:
            given["model"] = find_model(self.model)
        if self.system_prompt is not None:
            given["system"] = self.system_prompt
        bound = bound_options(self.model).get("tools") if self.tools is None else self.tools
        if bound is not None:
            given["tools"] = tuple(bound)
        if self.router is not None:
            settings = replace(settings, router=self.router)
        return replace(reader, **given), settings

    def _found(self, tip: CheckpointTuple | None) -> Steps[tuple[Reader, MemorySettings]]:
        """What the graph says; it is not asked where the caller gave model and prompt."""
        if self.model is None or self.system_prompt is None:
            values = dict(tip.checkpoint["channel_values"]) if tip else {}
            found = yield from find_reader(self.graph, values, self.config, self.context)
            if found is not None:
                return found
        if self.model is None:
            raise ConfigError(
                "the graph has a node with a memory: memory_node(...), or DeltaMemMiddleware in an "
                "agent",
                got=sorted(self.graph.nodes),
                remedy="Pass the model as ThreadMemory(..., model=..., system_prompt=..., "
                "tools=...).",
            )
        return Reader(find_model(self.model)), MemorySettings()


def required(memory: MemoryState | None, thread: object) -> MemoryState:
    """The memory.

    Raises:
        ThreadHistoryError: there is none.
    """
    if memory is None:
        raise ThreadHistoryError(
            "the thread has a memory",
            got=f"thread {thread!r} without one",
            remedy="Let a ChatDeltaMem answer in it first, or ingest something.",
        )
    return memory
