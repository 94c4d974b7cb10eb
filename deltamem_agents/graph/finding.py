"""Finds, in a compiled graph, the δ-mem model with the prompt and tools that its calls have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from pydantic import BaseModel

from deltamem_agents.chat.tools import tool_schemas
from deltamem_agents.errors import ConfigError
from deltamem_agents.graph.asking import Captured, asked
from deltamem_agents.graph.binding import find_model
from deltamem_agents.graph.nodes import MemoryNode
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.settings import MemorySettings
from deltamem_agents.graph.state import MEMORY_KEY
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.turn import Call

_AGENT_NODE = "model"  # the name that create_agent gives to the node that calls the model


def find_reader(
    graph: Any, state: Mapping[str, Any], config: RunnableConfig, context: Any = None
) -> Steps[tuple[Reader, MemorySettings] | None]:
    """The reader and the settings of a graph's memory; None where no node has one.

    A graph with a `MemoryNode` says so itself. An agent made with `create_agent` is asked: its
    model node is run up to the point where `DeltaMemMiddleware` would call the model, so that what
    other middleware does to prompt and tools is seen too. A graph whose memory is that of agents
    inside it (`shared=True`) reads as they do.

    Args:
        graph: compiled.
        state: its values.
        config: as a run would have it.
        context: the run's context, for middleware that looks at it.

    Raises:
        ConfigError: several nodes read differently, or middleware fails outside of a run.
    """
    runtime = Runtime(context=_fitted(graph, context), store=getattr(graph, "store", None))
    config = {
        **config,
        "configurable": {**config.get("configurable", {}), "__pregel_runtime": runtime},
    }
    found = yield from _own(graph, state, config)
    if found is None and MEMORY_KEY in graph.channels:
        for inner in _sharing(graph):
            other = yield from _own(inner, state, config)
            if found is not None and other is not None and not _alike(found[0], other[0]):
                raise ConfigError(
                    "agents that share a memory read with one model, prompt and tools",
                    got=f"{found[0].system!r} and {other[0].system!r}",
                    remedy="Pass ThreadMemory(..., model=..., system_prompt=..., tools=...).",
                )
            found = found or other
    return found


def _own(
    graph: Any, state: Mapping[str, Any], config: RunnableConfig
) -> Steps[tuple[Reader, MemorySettings] | None]:
    """What the graph's own nodes say; None where none has a memory."""
    nodes = {
        name: node.bound for name, node in graph.nodes.items() if isinstance(node.bound, MemoryNode)
    }
    if len(nodes) > 1:
        raise ConfigError(
            "a graph has one node with a memory",
            got=sorted(nodes),
            remedy="Pass the node's model as ThreadMemory(..., model=..., system_prompt=...).",
        )
    for found in nodes.values():
        return _reader(found.describe(state, config)), found.settings
    if _AGENT_NODE not in graph.nodes:
        return None
    node = graph.nodes[_AGENT_NODE].bound
    captured: Captured | None = yield _ask(node, state, config)
    if captured is not None and find_model(captured.call.model) is None:
        # The last message goes to another model: the agent's own one answers an empty question.
        captured = (yield _ask(node, {**state, "messages": []}, config)) or captured
    return None if captured is None else (_reader(captured.call), captured.settings)


def _sharing(graph: Any) -> Iterator[Any]:
    """The agents inside a graph whose memory is the graph's."""
    for _, inner in graph.get_subgraphs(recurse=True):
        if MEMORY_KEY in inner.output_channels:
            yield inner


def _alike(one: Reader, other: Reader) -> bool:
    return (
        one.model.engine is other.model.engine
        and one.system == other.system
        and tool_schemas(one.tools) == tool_schemas(other.tools)
    )


def _fitted(graph: Any, context: Any) -> Any:
    """The context as a run would get it: LangGraph makes a mapping an object of the schema."""
    schema: Any = getattr(graph, "context_schema", None)
    made = isinstance(schema, type) and (is_dataclass(schema) or issubclass(schema, BaseModel))
    return schema(**context) if made and isinstance(context, dict) else context


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
    # Middleware may look at the last message: a new thread is asked as by its first one.
    values = {**state, "messages": state.get("messages") or [HumanMessage("")]}

    def ask() -> Captured | None:
        try:
            with asked():
                node.invoke(values, config)
        except Captured as captured:
            return captured
        except Exception as error:
            raise _unasked(error) from error
        return None

    async def aask() -> Captured | None:
        try:
            with asked():
                await node.ainvoke(values, config)
        except Captured as captured:
            return captured
        except Exception as error:
            raise _unasked(error) from error
        return None

    return Effect(ask, aask)


def _unasked(error: Exception) -> ConfigError:
    return ConfigError(
        "the agent's middleware tells prompt and tools outside of a run too",
        got=repr(error),
        remedy="Pass what it looks at as ThreadMemory(..., context=...); or pass model=, "
        "system_prompt= and tools=, so that it is not asked.",
    )
