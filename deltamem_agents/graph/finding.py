"""Finds, in a compiled graph, the δ-mem model with the prompt and tools that its calls have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime

from deltamem_agents.errors import ConfigError
from deltamem_agents.graph.asking import Captured, asked
from deltamem_agents.graph.binding import find_model
from deltamem_agents.graph.nodes import MemoryNode
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.settings import MemorySettings
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.turn import Call

_AGENT_NODE = "model"  # the name that create_agent gives to the node that calls the model


def find_reader(
    graph: Any, state: Mapping[str, Any], config: RunnableConfig
) -> Steps[tuple[Reader, MemorySettings]]:
    """The reader and the settings of a graph's memory.

    A graph with a `MemoryNode` says so itself. An agent made with `create_agent` is asked: its
    model node is run up to the point where `DeltaMemMiddleware` would call the model, so that what
    other middleware does to prompt and tools is seen too.

    Raises:
        ConfigError: the graph has no δ-mem model, or several nodes have one.
    """
    nodes = {
        name: node.bound for name, node in graph.nodes.items() if isinstance(node.bound, MemoryNode)
    }
    if len(nodes) > 1:
        raise ConfigError(
            "a graph has one node with a memory",
            got=sorted(nodes),
            remedy="Pass the node's model as ThreadMemory(..., model=...).",
        )
    for found in nodes.values():
        return _reader(found.describe(state, config)), found.settings
    if _AGENT_NODE in graph.nodes:
        node = graph.nodes[_AGENT_NODE].bound
        captured: Captured | None = yield _ask(node, state, config)
        if captured is not None and find_model(captured.call.model) is None:
            # The last message goes to another model: the agent's own one answers an empty question.
            captured = (yield _ask(node, {**state, "messages": []}, config)) or captured
        if captured is not None:
            return _reader(captured.call), captured.settings
    raise ConfigError(
        "the graph has a node with a memory: memory_node(...), or DeltaMemMiddleware in an agent",
        got=sorted(graph.nodes),
        remedy="Pass the model as ThreadMemory(..., model=...).",
    )


def _reader(call: Call) -> Reader:
    model = find_model(call.model)
    if model is None:
        raise ConfigError(
            "the model of the graph's memory is a ChatDeltaMem",
            got=type(call.model).__name__,
            remedy="Pass ThreadMemory(..., model=ChatDeltaMem(...)).",
        )
    return Reader(model, call.system, call.tools)


def _ask(node: Any, state: Mapping[str, Any], config: RunnableConfig) -> Effect:
    where: RunnableConfig = {
        **config,
        "configurable": {**config.get("configurable", {}), "__pregel_runtime": Runtime()},
    }
    # Middleware may look at the last message: a new thread is asked as by its first one.
    values = {**state, "messages": state.get("messages") or [HumanMessage("")]}

    def ask() -> Captured | None:
        try:
            with asked():
                node.invoke(values, where)
        except Captured as captured:
            return captured
        return None

    async def aask() -> Captured | None:
        try:
            with asked():
                await node.ainvoke(values, where)
        except Captured as captured:
            return captured
        return None

    return Effect(ask, aask)
