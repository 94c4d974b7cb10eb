"""`DeltaMemMiddleware`: the memory of an agent made with LangChain's `create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import (
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    TracePolicy,
    omit_payload,
)
from langchain.agents.structured_output import OutputToolBinding, ToolStrategy
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.types import Command

from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.asking import answer_if_asked
from deltamem_agents.graph.channel import MergePolicy
from deltamem_agents.graph.settings import MemorySettings, OnDivergence
from deltamem_agents.graph.state import memory_schema
from deltamem_agents.graph.steps import Effect, arun, run
from deltamem_agents.graph.turn import Call, Outcome, call_with_memory

Request = ModelRequest[Any]
Response = ModelResponse[Any]


class DeltaMemMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gives an agent whose model is a `ChatDeltaMem` its memory, stored with the thread.

    Message and memory are one update of the graph, so that no checkpoint holds one without the
    other. Other models that the agent calls (fallbacks, a hosted model for one step) pass through
    untouched; what they said is read at the next call of a δ-mem model.

    Put it last (innermost) in `middleware=[...]`: what others change in a request is then seen.

    Args:
        router: a `HybridRouter`; exact questions are then answered from its store, with citations
            in the reply's `response_metadata["citations"]`.
        on_divergence: "rebuild" or "raise"; see `MemorySettings`.
        start: the memory that new threads begin with.
        shared: the memory belongs to the agent's input and output, so that a parent graph with a
            `delta_memory` channel and this agent have one memory. By default an agent that is a
            node of another graph has its own.
        merge: what happens when two parallel branches write one memory: "raise", "replay", or a
            function; see `channel`.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    trace_policy = TracePolicy(process_inputs=omit_payload, process_outputs=omit_payload)

    def __init__(
        self,
        router: Any | None = None,
        on_divergence: OnDivergence = "rebuild",
        *,
        start: MemoryState | None = None,
        shared: bool = False,
        merge: MergePolicy = "raise",
    ) -> None:
        super().__init__()
        self.settings = MemorySettings(router, on_divergence, start)
        self.state_schema = memory_schema(shared=shared, merge=merge)

    def wrap_model_call(
        self, request: Request, handler: Callable[[Request], Response]
    ) -> ExtendedModelResponse[Any]:
        """Call the model with the thread's memory; reply and memory are one update."""

        def attempt(model: Any, messages: list[AnyMessage]) -> Effect:
            return Effect(lambda: handler(request.override(model=model, messages=messages)))

        answer_if_asked(lambda: _call(request, attempt, {}), self.settings)
        return _answer(run(call_with_memory(self.settings, _call(request, attempt, get_config()))))

    async def awrap_model_call(
        self, request: Request, handler: Callable[[Request], Awaitable[Response]]
    ) -> ExtendedModelResponse[Any]:
        """The same, awaited."""

        def attempt(model: Any, messages: list[AnyMessage]) -> Effect:
            async def awaited() -> Response:
                return await handler(request.override(model=model, messages=messages))

            return Effect(_only_async, awaited)

        answer_if_asked(lambda: _call(request, attempt, {}), self.settings)
        return _answer(
            await arun(call_with_memory(self.settings, _call(request, attempt, get_config())))
        )


def _call(
    request: Request,
    attempt: Callable[[Any, list[AnyMessage]], Effect],
    config: RunnableConfig,
) -> Call:
    return Call(
        model=request.model,
        messages=request.messages,
        state=request.state,
        config=config,
        attempt=attempt,
        system=request.system_prompt or "",
        tools=(*request.tools, *_answer_tools(request.response_format)),
        structured=request.response_format is not None,
    )


def _answer_tools(response_format: object) -> list[Any]:
    """The tools that create_agent binds for a structured answer."""
    if not isinstance(response_format, ToolStrategy):
        return []
    return [OutputToolBinding.from_schema_spec(spec).tool for spec in response_format.schema_specs]


def _answer(outcome: Outcome) -> ExtendedModelResponse[Any]:
    command: Command[Any] | None = Command(update=outcome.update) if outcome.update else None
    response = outcome.response
    if isinstance(response, AIMessage):  # the store's own answer
        response = ModelResponse(result=[response])
    return ExtendedModelResponse(response, command)


def _only_async() -> Response:
    raise AssertionError("an awaited call has no form without an event loop")
