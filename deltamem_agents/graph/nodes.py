"""`memory_node`: a chat model with a memory as a node of a hand-written graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError
from deltamem_agents.graph.binding import bound_options, chosen, refuse_hidden
from deltamem_agents.graph.settings import MemorySettings, OnDivergence
from deltamem_agents.graph.state import MEMORY_KEY, MemoryNodeState
from deltamem_agents.graph.steps import Effect, arun, run
from deltamem_agents.graph.turn import Call, Outcome, call_with_memory

Update = dict[str, Any]


class MemoryNode(Runnable[MemoryNodeState, Update]):
    """What `memory_node` makes; add it to a `StateGraph` as any other node.

    Attributes:
        model: the model as it was given, bindings included.
        system_prompt: put before the messages at each call; "" for none.
        settings: router, divergence, start.
    """

    def __init__(
        self, model: Runnable[Any, Any], system_prompt: str, settings: MemorySettings
    ) -> None:
        self.model = model
        self.system_prompt = system_prompt
        self.settings = settings
        self.name = "memory_node"

    def __call__(self, state: MemoryNodeState, config: RunnableConfig | None = None) -> Update:
        """Run the node by hand. LangGraph reads the node's channels from this signature."""
        return self.invoke(state, config)

    def invoke(
        self, input: MemoryNodeState, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Update:
        """Call the model; returns the reply and the new memory as one update."""
        config = ensure_config(config)

        def attempt(model: Runnable[LanguageModelInput, Any], messages: list[AnyMessage]) -> Effect:
            return Effect(lambda: model.invoke(self._prompt(messages), config, **kwargs))

        call = self._call(input, config, attempt)
        return _update(run(call_with_memory(self.settings, call)), call)

    async def ainvoke(
        self, input: MemoryNodeState, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Update:
        """The same, awaited."""
        config = ensure_config(config)

        def attempt(model: Runnable[LanguageModelInput, Any], messages: list[AnyMessage]) -> Effect:
            prompt = self._prompt(messages)
            return Effect(
                lambda: model.invoke(prompt, config, **kwargs),
                lambda: model.ainvoke(prompt, config, **kwargs),
            )

        call = self._call(input, config, attempt)
        return _update(await arun(call_with_memory(self.settings, call)), call)

    def describe(self, state: Mapping[str, Any], config: RunnableConfig) -> Call:
        """What the node would call, without calling it."""
        return self._call({"messages": [], **state}, config, _nothing)  # type: ignore[typeddict-item]

    def _prompt(self, messages: list[AnyMessage]) -> list[BaseMessage]:
        system = [SystemMessage(self.system_prompt)] if self.system_prompt else []
        return [*system, *messages]

    def _call(self, state: MemoryNodeState, config: RunnableConfig, attempt: Any) -> Call:
        model = chosen(self.model, config)
        return Call(
            model=model,
            messages=state["messages"],
            state=state,
            config=config,
            attempt=attempt,
            system=self.system_prompt,
            tools=tuple(bound_options(model).get("tools") or ()),
        )


def memory_node(
    model: Runnable[Any, Any],
    *,
    system_prompt: str = "",
    router: Any | None = None,
    on_divergence: OnDivergence = "rebuild",
    start: MemoryState | None = None,
) -> MemoryNode:
    """Make a node that calls `model` on the state's messages with the thread's memory.

    The graph needs a `messages` channel (such as LangGraph's `MessagesState`); the channels of the
    memory come with the node and are in neither input nor output of the graph.

    Args:
        model: a `ChatDeltaMem`, or one with tools bound to it, with retries or fallbacks, as a
            fallback, configurable, or with steps after it that hand on its message. Another model
            works as a plain node without memory.
        system_prompt: put before the messages at each call, not stored with them.
        router: as in `DeltaMemMiddleware`.
        on_divergence: as in `DeltaMemMiddleware`.
        start: as in `DeltaMemMiddleware`.

    Raises:
        ConfigError: `model` is no runnable, or calls a `ChatDeltaMem` in a way in which it cannot
            be given the memory (`prompt | model`), or an option breaks its rule.
    """
    if not isinstance(model, Runnable):
        raise ConfigError(
            "memory_node takes a chat model",
            got=type(model).__name__,
            remedy="Pass ChatDeltaMem() or ChatDeltaMem().bind_tools(tools).",
        )
    refuse_hidden(model)
    return MemoryNode(model, system_prompt, MemorySettings(router, on_divergence, start))


def _nothing(model: Any, messages: list[AnyMessage]) -> Effect:
    return Effect(lambda: None)


def _update(outcome: Outcome, call: Call) -> Update:
    if outcome.update.get(MEMORY_KEY) and not isinstance(outcome.response, AIMessage):
        raise ConfigError(
            "a node with a memory answers with the message that the model wrote",
            got=f"a {type(outcome.response).__name__}",
            remedy="Parse the message in a node after it.",
        )
    if _sent(call):
        return {"messages": [outcome.response]}
    return {"messages": [outcome.response], **outcome.update}


def _sent(call: Call) -> bool:
    """Whether `Send` told the node what to read, and gave it no memory.

    It has read other messages than the thread's then: its memory is not the thread's.
    """
    path = call.config.get("metadata", {}).get("langgraph_path") or ("",)
    return path[0] == "__pregel_push" and MEMORY_KEY not in call.state
