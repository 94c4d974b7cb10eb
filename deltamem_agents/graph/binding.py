"""Finds the δ-mem model inside what a graph calls a model, and gives it a memory for one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase


@runtime_checkable
class RemembersMessages(Protocol):
    """A chat model that can carry a memory: `ChatDeltaMem`."""

    def with_memory(self, slot: Any) -> Any:
        """This model with the slot through which one call's memory goes in and comes out."""


def is_ours(model: object) -> bool:
    """Whether the model itself, not something wrapped in it, carries a memory."""
    return isinstance(model, BaseChatModel) and isinstance(model, RemembersMessages)


def find_model(model: object) -> Any | None:
    """The δ-mem model in a model, a binding of one (tools, stop) or one with fallbacks."""
    if is_ours(model):
        return model
    if isinstance(model, RunnableBindingBase):
        return find_model(model.bound)
    if isinstance(model, RunnableWithFallbacks):
        return find_model(model.runnable)
    return None


def bound_options(model: object) -> Mapping[str, Any]:
    """The keyword arguments bound around the δ-mem model, such as its tools."""
    if isinstance(model, RunnableBindingBase):
        return {**bound_options(model.bound), **model.kwargs}
    if isinstance(model, RunnableWithFallbacks):
        return bound_options(model.runnable)
    return {}


def bind_memory(model: Any, slot: Any) -> Runnable[Any, Any] | None:
    """The same model, its δ-mem model bound to `slot`; None where there is none.

    Fallbacks stay as they are: a model that is not ours never sees the memory.
    """
    if is_ours(model):
        return model.with_memory(slot)  # type: ignore[no-any-return]
    if isinstance(model, RunnableBindingBase):
        inner = bind_memory(model.bound, slot)
        return None if inner is None else model.model_copy(update={"bound": inner})
    if isinstance(model, RunnableWithFallbacks):
        inner = bind_memory(model.runnable, slot)
        return None if inner is None else model.model_copy(update={"runnable": inner})
    return None
