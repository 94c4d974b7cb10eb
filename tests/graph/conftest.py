"""A counting chat model in the network's place: "plumbing only".

Its memory is a real `MemoryState` whose matrix counts, message by message, what was read, so that
a message that is read twice, never, or by the wrong thread shows as a number. It knows no window.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import DivergenceError

SHAPE = (1, 1, 8, 8)


def name_of(message: BaseMessage) -> str:
    calls = [(call["name"], call["args"]) for call in getattr(message, "tool_calls", [])]
    return hashlib.sha256(repr((message.type, message.text, calls)).encode()).hexdigest()


def counted(names: tuple[str, ...]) -> MemoryState:
    """The memory of a thread that read just these messages, each once."""
    state = np.zeros(SHAPE, np.float32)
    for name in names:
        place = int(name[:4], 16)
        state[0, 0, place % 8, place // 8 % 8] += 1 + place / 2**16
    return MemoryState(
        state, np.zeros(SHAPE, np.float32), Ledger(visible=names), len(names), "0" * 64
    )


class CountingModel(BaseChatModel):
    """Answers "n heard" where n is the number of messages that its memory has read."""

    script: list[AIMessage] = Field(default_factory=list)
    failures: int = 0
    calls: list[int] = Field(default_factory=list)
    _slot: Any = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "counting"

    def with_memory(self, slot: Any) -> CountingModel:
        bound = self.model_copy(update={"cache": False})
        bound._slot = slot
        return bound

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self.bind(tools=tools, **options)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> ChatResult:
        self.calls.append(len(messages))
        if self.failures > len(self.calls) - 1:
            raise ConnectionError("planned")
        names = tuple(name_of(message) for message in messages if message.type != "system")
        before = self._slot.before if self._slot else None
        visible = before.ledger.visible if before else ()
        if names[: len(visible)] != visible:
            raise DivergenceError("history agrees with memory", got=len(visible))
        turn = len([message for message in messages if message.type == "ai"])
        reply = AIMessage(f"{len(names)} heard")
        if turn < len(self.script):
            reply = self.script[turn].model_copy()
        if self._slot is not None:
            self._slot.fill(counted((*names, name_of(reply))))
        return ChatResult(generations=[ChatGeneration(message=reply)])


@pytest.fixture
def counting() -> type[CountingModel]:
    return CountingModel


@pytest.fixture
def heard() -> Any:
    """The memory that a thread with just these messages must have."""
    return lambda messages: counted(
        tuple(name_of(message) for message in messages if message.type != "system")
    )
