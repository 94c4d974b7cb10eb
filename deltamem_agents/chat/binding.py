"""A chat model with tools, parameters or a config bound to it: it still takes a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableBinding

from deltamem_agents.core.state import MemoryState
from deltamem_agents.runtime.slot import MemorySlot

if TYPE_CHECKING:
    from deltamem_agents.chat.conversation import ChatSession


class ChatBinding(RunnableBinding[LanguageModelInput, AIMessage]):
    """What `bind_tools`, `bind` and `with_config` of a `ChatDeltaMem` return."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """Serialized as what it is to LangChain."""
        return [*cls.get_lc_namespace(), "RunnableBinding"]

    def with_memory(self, slot: MemorySlot) -> Self:
        """As the model's, with all that is bound."""
        model: Any = self.bound
        return self.model_copy(update={"bound": model.with_memory(slot)})

    def session(self, memory: MemoryState | None = None) -> ChatSession:
        """As the model's; each turn has all that is bound."""
        from deltamem_agents.chat.conversation import ChatSession

        model: Any = self
        return ChatSession(model, memory)
