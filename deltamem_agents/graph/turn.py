"""One model call of a graph: the memory goes in, the reply and the new memory come out.

The middleware and the node both run this; they differ only in how the model is called. Nothing is
stored here: the caller puts reply and memory into one update, so that both land in one superstep.
A call that fails leaves no trace, and a retry begins again from the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AnyMessage
from langchain_core.runnables import RunnableConfig

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ContextWindowError, DivergenceError
from deltamem_agents.graph.binding import bind_memory, find_model
from deltamem_agents.graph.history import nearest_agreeing, refuse_changed
from deltamem_agents.graph.place import place_of_call
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.routing import cite, consult, verbatim, with_data
from deltamem_agents.graph.settings import MemorySettings
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.turns import turns
from deltamem_agents.router import Decision, HybridRouter
from deltamem_agents.runtime.slot import MemorySlot

MESSAGES_UNSEEN = 16  # a rebuild of more messages than these is read ahead of the call


@dataclass(frozen=True)
class Call:
    """One call, as its caller sees it.

    Args:
        model: what the graph calls a model; a δ-mem model may be wrapped in a binding.
        messages: what the model is to read, without the system message.
        state: the graph's state.
        config: of the running node.
        attempt: an effect that calls a bound model with messages and gives the response.
        system: the system prompt, "" for none.
        tools: what the model may call.
        structured: whether the reply must fit a schema.
    """

    model: Any
    messages: Sequence[AnyMessage]
    state: Mapping[str, Any]
    config: RunnableConfig
    attempt: Callable[[Any, list[AnyMessage]], Effect]
    system: str = ""
    tools: Sequence[Any] = field(default_factory=tuple)
    structured: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a call gave.

    Args:
        response: what `attempt` gave, or the router's own reply.
        update: the state's new memory, to be stored with the response; empty where no δ-mem model
            answered.
    """

    response: Any
    update: dict[str, Any]


def call_with_memory(settings: MemorySettings, call: Call) -> Steps[Outcome]:
    """Call the model with the thread's memory.

    Raises:
        DivergenceError: the history was changed and `on_divergence` is "raise".
    """
    model = find_model(call.model)
    if model is None:
        response = yield call.attempt(call.model, list(call.messages))
        return Outcome(response, {})
    before, update = _memory_before(settings, call.state)
    decision: Decision | None = None
    if settings.router is not None:
        decision, heard = yield from consult(
            settings.router, call.messages, call.state, call.config
        )
        update.update(heard)
    way = _Way(call, Reader(model, call.system, call.tools), settings.router, decision)
    place = place_of_call(call.config)
    try:
        yield from refuse_changed(way.reader, place, before, call.messages)
        response, after = yield from way.go(before)
    except DivergenceError:
        if settings.on_divergence == "raise":
            raise
        before = yield from nearest_agreeing(
            way.reader, place, call.state, call.messages, settings.start
        )
        before = yield from read_ahead(way.reader, before, call.messages)
        response, after = yield from way.go(before)
    if after is not None:
        update[MEMORY_KEY] = after
    return Outcome(response, update)


def read_ahead(
    reader: Reader, before: MemoryState | None, messages: Sequence[AnyMessage]
) -> Steps[MemoryState | None]:
    """Read a long history up to its last turn, where a progress bar can be shown."""
    told = [message for piece in turns(messages)[:-1] for message in piece]
    ledger = before.ledger if before is not None else Ledger()
    if len(told) - ledger.evicted_count - len(ledger.visible) <= MESSAGES_UNSEEN:
        return before
    return (yield from reader.read(before, told))


def _memory_before(
    settings: MemorySettings, state: Mapping[str, Any]
) -> tuple[MemoryState | None, dict[str, Any]]:
    memory = state.get(MEMORY_KEY)
    if memory is None and settings.start is not None:
        return settings.start, {START_KEY: settings.start}
    return memory, {}


@dataclass(frozen=True)
class _Way:
    """How a call is answered once it is decided who answers."""

    call: Call
    reader: Reader
    router: HybridRouter | None
    decision: Decision | None

    def go(self, before: MemoryState | None) -> Steps[tuple[Any, MemoryState | None]]:
        """Answer from a memory; gives the response and the memory after it."""
        messages = list(self.call.messages)
        if self.router is not None and messages and not self.call.structured:
            found = verbatim(self.router, self.decision, messages)
            if found is not None:
                return found, (yield from self.reader.read(before, [*messages, found]))
        shown = with_data(self.router, self.decision, messages) if self.router else None
        if shown is not None:
            try:
                response, _ = yield from self._ask(before, shown)
            except ContextWindowError:
                shown = None  # no room for the facts beside the question: the memory answers
        if shown is None:
            return (yield from self._ask(before, messages))
        # What was retrieved was for this call; the memory reads what the thread holds.
        reply = replies_of(response)[:1]
        return response, (yield from self.reader.read(before, [*messages, *reply]))

    def _ask(
        self, before: MemoryState | None, messages: list[AnyMessage]
    ) -> Steps[tuple[Any, MemoryState | None]]:
        slot = MemorySlot(before)
        model = bind_memory(self.call.model, slot)
        response = yield self.call.attempt(model, messages)
        if self.router is not None:
            cite(self.router, self.decision, replies_of(response))
        return response, slot.after


def replies_of(response: Any) -> list[Any]:
    """The messages of a response: of a model, or of an agent's model call."""
    return list(response.result) if hasattr(response, "result") else [response]
