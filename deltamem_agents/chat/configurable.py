"""A chat model of which a part is chosen as it runs: whatever is chosen takes the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.runnables import ConfigurableField, Runnable
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from langchain_core.runnables.utils import AnyConfigurableField

from deltamem_agents.core.state import MemoryState
from deltamem_agents.runtime.slot import MemorySlot

if TYPE_CHECKING:
    from deltamem_agents.chat.conversation import ChatSession


class Configurable:
    """What `configurable_fields` and `configurable_alternatives` make of it takes a memory too."""

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> Any:
        """Let fields be set by a call's config."""
        made = super().configurable_fields(**kwargs)  # type: ignore[misc]
        return ChatFields(default=made.default, fields=made.fields)

    def configurable_alternatives(
        self,
        which: ConfigurableField,
        *,
        default_key: str = "default",
        prefix_keys: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Let a call's config choose this model or another."""
        return ChatAlternatives(
            which=which,
            default=cast("Any", self),
            alternatives=kwargs,
            default_key=default_key,
            prefix_keys=prefix_keys,
        )


class _Chosen(Configurable):
    def with_memory(self, slot: MemorySlot) -> Self:
        """As the model's; the choice is still open."""
        model: Any = self
        update: dict[str, Any] = {"default": _with_memory(model.default, slot)}
        if isinstance(model, RunnableConfigurableAlternatives):
            others = model.alternatives.items()
            update["alternatives"] = {name: _with_memory(one, slot) for name, one in others}
        return cast("Self", model.model_copy(update=update))

    def bind(self, **kwargs: Any) -> Any:
        """Bind parameters of calls."""
        from deltamem_agents.chat.binding import ChatBinding

        return ChatBinding(bound=cast("Any", self), kwargs=kwargs, config={})

    def session(self, memory: MemoryState | None = None) -> ChatSession:
        """As the model's; each turn may choose anew."""
        from deltamem_agents.chat.conversation import ChatSession

        model: Any = self
        return ChatSession(model, memory)


class ChatFields(_Chosen, RunnableConfigurableFields):  # type: ignore[type-arg]
    """What `configurable_fields` of a `ChatDeltaMem` returns."""

    configurable_fields = RunnableConfigurableFields.configurable_fields

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialized as what it is to LangChain."""
        return [*cls.get_lc_namespace(), "RunnableConfigurableFields"]


class ChatAlternatives(_Chosen, RunnableConfigurableAlternatives):  # type: ignore[type-arg]
    """What `configurable_alternatives` returns. A model that is no `ChatDeltaMem` has no memory."""

    configurable_fields = RunnableConfigurableAlternatives.configurable_fields

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialized as what it is to LangChain."""
        return [*cls.get_lc_namespace(), "RunnableConfigurableAlternatives"]


def _with_memory(model: Any, slot: MemorySlot) -> Any:
    """A model, or a function that makes one, with a memory where it takes one."""
    if hasattr(model, "with_memory"):
        return model.with_memory(slot)
    if callable(model) and not isinstance(model, Runnable):
        return lambda: _with_memory(model(), slot)
    return model
