"""Finds the δ-mem model inside what a graph calls a model, and gives it a memory for one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable

from deltamem_agents.errors import ConfigError

# Of a sequence the first step: later ones are not given the messages.
_PARTS = ((RunnableBindingBase, "bound"), (RunnableSequence, "first"), (DynamicRunnable, "default"))


@runtime_checkable
class RemembersMessages(Protocol):
    """A chat model that can carry a memory: `ChatDeltaMem`."""

    def with_memory(self, slot: Any) -> Any:
        """This model with the slot through which one call's memory goes in and comes out."""


def is_ours(model: object) -> bool:
    """Whether the model itself, not something wrapped in it, carries a memory."""
    return isinstance(model, BaseChatModel) and isinstance(model, RemembersMessages)


def find_model(model: object) -> Any | None:
    """The δ-mem model in a model: itself, bound (tools, retries), a fallback, a first step.

    Of a configurable model it is the default; see `chosen`.
    """
    if is_ours(model):
        return model
    inner = _inner(model)
    return None if inner is None else find_model(inner[0])


def bound_options(model: object) -> Mapping[str, Any]:
    """The keyword arguments bound around the δ-mem model, such as its tools."""
    inner = _inner(model)
    if inner is None:
        return {}
    own = model.kwargs if isinstance(model, RunnableBindingBase) else {}
    return {**bound_options(inner[0]), **own}


def bind_memory(model: Any, slot: Any) -> Runnable[Any, Any] | None:
    """The same model, its δ-mem model bound to `slot`; None where there is none.

    All else stays as it is: a model that is not ours never sees the memory.
    """
    if is_ours(model):
        return model.with_memory(slot)  # type: ignore[no-any-return]
    inner = _inner(model)
    if inner is None:
        return None
    bound = bind_memory(inner[0], slot)
    return None if bound is None else inner[1](bound)


def chosen(model: Any, config: RunnableConfig) -> Any:
    """The model that a call under `config` takes, where one is chosen as it runs.

    What holds no δ-mem model then is left as it is.
    """
    taken = model
    if isinstance(model, DynamicRunnable):
        taken, config = model.prepare(config)
    inner = _inner(taken)
    if inner is not None and (within := chosen(inner[0], config)) is not inner[0]:
        taken = inner[1](within)
    return model if find_model(taken) is None else taken


def refuse_hidden(model: object) -> None:
    """Refuse what calls a δ-mem model in a way in which it cannot be given a memory.

    Raises:
        ConfigError: it does; the node would have none.
    """
    found = find_model(model) is not None
    if not found and isinstance(model, DynamicRunnable):
        for one in vars(model).get("alternatives", {}).values():
            refuse_hidden(one)
            found = found or find_model(one) is not None
    if not found and _holds(model):
        raise ConfigError(
            "what memory_node calls hands the thread's messages to the ChatDeltaMem as they stand",
            got=f"a {type(model).__name__} in which other steps come first, or beside it",
            remedy="Pass the model itself, a prompt as memory_node(model, system_prompt=...); let "
            "what changes messages be a node before it.",
        )


def _inner(model: object) -> tuple[Any, Callable[[Any], Any]] | None:
    """The part of a model that a δ-mem model may be in; and what puts another in its place."""
    for kind, name in _PARTS:
        if isinstance(model, kind):
            return getattr(model, name), partial(_with, model, name)
    if isinstance(model, RunnableWithFallbacks):
        for place, one in enumerate(model.fallbacks):
            if find_model(one) is not None and find_model(model.runnable) is None:
                return one, partial(_with_fallback, model, place)
        return model.runnable, partial(_with, model, "runnable")
    return None


def _with(model: Any, name: str, new: Any) -> Any:
    return model.model_copy(update={name: new})


def _with_fallback(model: Any, place: int, new: Any) -> Any:
    rest = list(model.fallbacks)
    return _with(model, "fallbacks", [*rest[:place], new, *rest[place + 1 :]])


def _holds(value: object) -> bool:
    """Whether a δ-mem model is anywhere in it, as far as LangChain can tell."""
    if isinstance(value, BaseChatModel):
        return is_ours(value)
    if isinstance(value, list | tuple):
        return any(map(_holds, value))
    if isinstance(value, dict):
        return any(map(_holds, value.values()))
    if isinstance(value, RunnableLambda):
        return any(map(_holds, value.deps))
    return isinstance(value, Runnable) and any(map(_holds, vars(value).values()))
