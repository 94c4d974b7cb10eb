"""A conversation that keeps its own memory, for users without LangGraph."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    convert_to_messages,
    message_chunk_to_message,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.prompt_values import PromptValue

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import FileFormatError, ModelNotFoundError, SerializationError
from deltamem_agents.runtime.slot import MemorySlot

if TYPE_CHECKING:
    from deltamem_agents.chat.model import ChatDeltaMem


_MEMORY, _MESSAGES = "memory.safetensors", "messages.json"


class ChatSession:
    """A conversation: messages, and the memory that has read them.

    A turn that fails, or whose stream is not read to its end, changes nothing.

    Args:
        model: the chat model, also with tools bound to it.
        memory: what it remembers at the beginning; None for nothing.
    """

    def __init__(self, model: ChatDeltaMem, memory: MemoryState | None = None) -> None:
        self.model = model
        self.memory = memory
        self.messages: list[BaseMessage] = []

    def invoke(self, input: Any, **kwargs: Any) -> AIMessage:
        """Say something and wait for the reply.

        Args:
            input: a string, a message, a list of messages or a prompt's value.
            **kwargs: as for the model's `invoke`; `tools` may be among them.
        """
        slot, said = MemorySlot(self.memory), self._said(input)
        reply = self.model.with_memory(slot).invoke([*self._in_view(), *said], **kwargs)
        return self._keep(slot, said, reply)

    async def ainvoke(self, input: Any, **kwargs: Any) -> AIMessage:
        """As `invoke`."""
        slot, said = MemorySlot(self.memory), self._said(input)
        reply = await self.model.with_memory(slot).ainvoke([*self._in_view(), *said], **kwargs)
        return self._keep(slot, said, reply)

    def stream(self, input: Any, **kwargs: Any) -> Iterator[AIMessageChunk]:
        """Say something and read the reply as it grows."""
        slot, said = MemorySlot(self.memory), self._said(input)
        whole: AIMessageChunk | None = None
        for chunk in self.model.with_memory(slot).stream([*self._in_view(), *said], **kwargs):
            whole = chunk if whole is None else whole + chunk
            yield chunk
        if whole is not None:
            self._keep(slot, said, message_chunk_to_message(whole))

    async def astream(self, input: Any, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        """As `stream`."""
        slot, said = MemorySlot(self.memory), self._said(input)
        whole: AIMessageChunk | None = None
        async for chunk in self.model.with_memory(slot).astream(
            [*self._in_view(), *said], **kwargs
        ):
            whole = chunk if whole is None else whole + chunk
            yield chunk
        if whole is not None:
            self._keep(slot, said, message_chunk_to_message(whole))

    def fork(self) -> ChatSession:
        """Return a conversation that goes on from here on its own."""
        other = ChatSession(self.model, self.memory)
        other.messages = list(self.messages)
        return other

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write memory and messages to a folder; what was saved there before is replaced.

        Artifacts of tool messages that JSON cannot hold are left out: no model reads them.

        Raises:
            SerializationError: a message has something else that JSON cannot hold; the folder is
                as it was.
        """
        folder = Path(folder)
        text = _as_json(self.messages)
        folder.mkdir(parents=True, exist_ok=True)
        memory, messages = folder / _MEMORY, folder / _MESSAGES
        fresh = [path.with_name(f"{path.name}.new") for path in (memory, messages)]
        if self.memory is not None:
            self.memory.save(fresh[0])
        fresh[1].write_bytes(text)
        # Whatever ends this here, no messages stand beside the memory of others: without one, the
        # next turn reads them all again.
        memory.unlink(missing_ok=True)
        os.replace(fresh[1], messages)
        if self.memory is not None:
            os.replace(fresh[0], memory)
        return folder

    @classmethod
    def load(cls, model: ChatDeltaMem, folder: str | PathLike[str]) -> ChatSession:
        """Read what `save` wrote.

        Raises:
            ModelNotFoundError: nothing is there.
            FileFormatError: a file is damaged.
        """
        folder = Path(folder)
        if not (folder / _MESSAGES).is_file():
            raise ModelNotFoundError(
                "a saved conversation is a folder with messages.json",
                got=str(folder),
                remedy="Give the folder that save wrote.",
            )
        memory = folder / _MEMORY
        session = cls(model, MemoryState.load(memory) if memory.exists() else None)
        try:
            stored = json.loads((folder / _MESSAGES).read_text(encoding="utf-8"))
            session.messages = messages_from_dict(stored)
        except (ValueError, TypeError, KeyError) as error:
            raise FileFormatError(
                "messages.json holds a list of messages",
                got=f"{folder}: {error}",
                remedy="Restore it from another copy, or begin a new conversation.",
            ) from error
        return session

    def _in_view(self) -> list[BaseMessage]:
        """System prompt and window: what has left it need not be sent again."""
        gone = 0 if self.memory is None else self.memory.ledger.evicted_count
        lead = 0
        while lead < len(self.messages) and to_dict(self.messages[lead])["role"] == "system":
            lead += 1
        return [*self.messages[:lead], *self.messages[lead + gone :]]

    @staticmethod
    def _said(input: Any) -> list[BaseMessage]:
        if isinstance(input, PromptValue):
            return input.to_messages()
        return convert_to_messages(input if isinstance(input, list) else [input])

    def _keep(self, slot: MemorySlot, said: list[BaseMessage], reply: Any) -> AIMessage:
        self.memory = slot.after
        self.messages = [*self.messages, *said, reply]
        assert isinstance(reply, AIMessage)
        return reply


def _as_json(messages: list[BaseMessage]) -> bytes:
    stored = messages_to_dict(messages)
    for each in stored:
        try:
            json.dumps(each["data"].get("artifact"))
        except (TypeError, ValueError):
            each["data"]["artifact"] = None
    try:
        return (json.dumps(stored, ensure_ascii=False, indent=1) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise SerializationError(
            "a conversation that is saved has messages of text, numbers, lists and mappings",
            got=str(error),
            remedy="Take it out of the message's additional_kwargs or content.",
        ) from error
