"""One model call of a graph: the memory goes in, the reply and the new memory come out.

The middleware and the node both run this; they differ only in how the model is called. Nothing is
stored here: the caller puts reply and memory into one update, so that both land in one superstep.
A call that fails leaves no trace, and a retry begins again from the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AnyMessage

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ConfigError, DivergenceError
from deltamem_agents.graph.binding import bind_memory, find_model
from deltamem_agents.graph.history import earlier_memories
from deltamem_agents.graph.place import Place
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.runtime.slot import MemorySlot

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
        ConfigError: `on_divergence` or `start` is none of these.
    """

    router: Any | None = None
    on_divergence: OnDivergence = "rebuild"
    start: MemoryState | None = None

    def __post_init__(self) -> None:
        if self.on_divergence not in ("rebuild", "raise"):
            raise ConfigError("on_divergence is 'rebuild' or 'raise'", got=self.on_divergence)
        if self.start is not None and not isinstance(self.start, MemoryState):
            raise ConfigError(
                "start is a MemoryState",
                got=type(self.start).__name__,
                remedy="Load it with MemoryState.load(path) or make it with read_once(...).",
            )


@dataclass(frozen=True)
class Call:
    """One call, as its caller sees it.

    Args:
        model: what the graph calls a model; a δ-mem model may be wrapped in a binding.
        messages: what the model is to read, without the system message.
        state: the graph's state.
        place: where in the thread's past the call stands.
        attempt: an effect that calls a bound model with messages and gives the response.
        system: the system prompt, "" for none.
        tools: what the model may call.
    """

    model: Any
    messages: Sequence[AnyMessage]
    state: Mapping[str, Any]
    place: Place
    attempt: Callable[[Any, list[AnyMessage]], Effect]
    system: str = ""
    tools: Sequence[Any] = field(default_factory=tuple)


@dataclass(frozen=True)
class Outcome:
    """What a call gave.

    Args:
        response: what `attempt` gave.
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
    if find_model(call.model) is None:
        response = yield call.attempt(call.model, list(call.messages))
        return Outcome(response, {})
    before, update = _memory_before(settings, call.state)
    messages = list(call.messages)
    try:
        response, after = yield from _attempt(call, messages, before)
    except DivergenceError:
        if settings.on_divergence == "raise":
            raise
        response, after = yield from _rebuilt(settings, call, messages)
    if after is not None:
        update[MEMORY_KEY] = after
    return Outcome(response, update)


def _memory_before(
    settings: MemorySettings, state: Mapping[str, Any]
) -> tuple[MemoryState | None, dict[str, Any]]:
    memory = state.get(MEMORY_KEY)
    if memory is None and settings.start is not None:
        return settings.start, {START_KEY: settings.start}
    return memory, {}


def _attempt(
    call: Call, messages: list[AnyMessage], before: MemoryState | None
) -> Steps[tuple[Any, MemoryState | None]]:
    slot = MemorySlot(before)
    response = yield call.attempt(bind_memory(call.model, slot), messages)
    return response, slot.after


def _rebuilt(
    settings: MemorySettings, call: Call, messages: list[AnyMessage]
) -> Steps[tuple[Any, MemoryState | None]]:
    """Call from the nearest earlier memory that agrees; what it has not read is read again.

    A memory that does not agree is refused before anything is computed.
    """
    earlier = yield from earlier_memories(call.place, call.state, settings.start)
    for before in earlier[:-1]:
        try:
            return (yield from _attempt(call, messages, before))
        except DivergenceError:
            continue
    return (yield from _attempt(call, messages, earlier[-1]))
