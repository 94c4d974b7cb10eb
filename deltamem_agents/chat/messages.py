"""LangChain messages to the runtime's plain dicts, and replies back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk

from deltamem_agents.chat.errors import ChatRequestError
from deltamem_agents.chat.values import check_text
from deltamem_agents.runtime.answer import Final, Usage
from deltamem_agents.runtime.reply import CallPart, Part, ReasoningPart

_ROLES = {
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}
_PLAIN = {HumanMessage: "user", SystemMessage: "system"}
_TEXT = ("text", "text-plain", "output_text", "input_text")
# Blocks that repeat what a message says elsewhere (tool calls), or that no prompt shows.
_SKIPPED = ("tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call")
_REASONING = ("reasoning", "thinking", "redacted_thinking", "reasoning_content")


def to_dicts(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Convert a conversation.

    Raises:
        ChatRequestError: it is empty, or a message has a role or content the model cannot be given.
    """
    if not messages:
        raise ChatRequestError(
            "a call has at least one message", got=[], remedy="Add a HumanMessage."
        )
    return [to_dict(message) for message in messages]


def to_dict(message: BaseMessage) -> dict[str, Any]:
    """Convert one message.

    Raises:
        ChatRequestError: see `to_dicts`.
    """
    role = _PLAIN.get(type(message))  # nearly all of a long history; sent anew at every call
    if (
        role
        and isinstance(message.content, str)
        and not (message.additional_kwargs or message.name)
    ):
        check_text(message.content)
        return {"role": role, "content": message.content}
    text, thought = _split(message.content)
    entry: dict[str, Any] = {"role": _role(message), "content": text}
    if isinstance(message, AIMessage):
        thought = str(message.additional_kwargs.get("reasoning_content") or "") or thought
        entry["tool_calls"] = [
            {"id": call["id"], "name": call["name"], "args": call["args"]}
            for call in message.tool_calls
        ]
        entry["invalid_tool_calls"] = [
            {"name": call.get("name"), "args": call.get("args")}
            for call in message.invalid_tool_calls
        ]
    if thought:
        entry["reasoning_content"] = thought
    if isinstance(message, ToolMessage):
        entry["tool_call_id"] = message.tool_call_id
    if message.name:
        entry["name"] = message.name
    if message.additional_kwargs.get("lc_source") == "summarization":
        entry["summary"] = True
    check_text(text, thought, message.name or "")
    if calls := [*entry.get("tool_calls", ()), *entry.get("invalid_tool_calls", ())]:
        check_text(json.dumps(calls, ensure_ascii=False, default=str))
    return entry


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        role: object = message.role
    else:
        kinds = (HumanMessage, AIMessage, SystemMessage, ToolMessage, FunctionMessage)
        role = message.type.removesuffix("MessageChunk") if isinstance(message, kinds) else None
        role = {"Human": "human", "AI": "ai", "System": "system", "Tool": "tool"}.get(
            str(role), role
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise ChatRequestError(
            f"a message's role is one of {', '.join(sorted(set(_ROLES)))}",
            got=role or type(message).__name__,
            remedy="Send a HumanMessage, AIMessage, SystemMessage or ToolMessage.",
        )
    return _ROLES[role]


def _split(content: Any) -> tuple[str, str]:
    """Join the text of a content in any form; apart from it, its reasoning."""
    if isinstance(content, str):
        return content, ""
    text, thought = [], []
    for block in content:
        kind = "text" if isinstance(block, str) else block.get("type")
        if isinstance(block, str):
            text.append(block)
        elif kind in _TEXT and isinstance(block.get("text"), str):
            text.append(block["text"])
        elif kind in _REASONING:
            thought.append(str(block.get("reasoning") or block.get("thinking") or ""))
        elif kind == "json" or (kind is None and "json" in block):
            text.append(str(block.get("json")))
        elif kind == "tool_result":
            text.append(_split(block.get("content") or "")[0])
        elif kind not in _SKIPPED:
            raise ChatRequestError(
                "a message's content is text",
                got=kind or block,
                remedy="This model reads no images, audio, video or files: send text.",
            )
    return "".join(text), "".join(thought)


def to_message(final: Final, name: str) -> AIMessage:
    """Make the whole reply a message."""
    entry = final.message
    kept = {"reasoning_content": entry["reasoning_content"]} if "reasoning_content" in entry else {}
    return AIMessage(
        content=entry["content"],
        additional_kwargs=kept,
        tool_calls=[
            ToolCall(
                name=call["function"]["name"],
                args=call["function"]["arguments"],
                id=call["id"],
                type="tool_call",
            )
            for call in entry.get("tool_calls", ())
        ],
        invalid_tool_calls=[
            InvalidToolCall(
                name=call["name"], args=call["args"], id=call["id"], error=call.get("error"),
                type="invalid_tool_call",
            )
            for call in entry.get("invalid_tool_calls", ())
        ],
        response_metadata=_metadata(final, name),
        usage_metadata=_usage(final.usage),
    )  # fmt: skip


class Chunks:
    """Makes the pieces of one reply chunks.

    Args:
        blocks: whether LangChain is to make a list of blocks of them (output_version="v1"). It
            merges those of one index, so text and calls are numbered together then.
    """

    def __init__(self, *, blocks: bool) -> None:
        self._blocks = blocks
        self._index = -1
        self._latest: tuple[type[Part], int] | None = None

    def of(self, part: Part) -> AIMessageChunk:
        """Make a piece of the reply a chunk."""
        number = part.index if isinstance(part, CallPart) else 0
        if (type(part), number) != self._latest:
            self._latest = type(part), number
            self._index += 1
        if isinstance(part, CallPart):
            index = self._index if self._blocks else number
            call = tool_call_chunk(name=part.name, args=part.arguments, id=part.id, index=index)
            return AIMessageChunk(content="", tool_call_chunks=[call])
        if isinstance(part, ReasoningPart):
            return AIMessageChunk(content="", additional_kwargs={"reasoning_content": part.text})
        if self._blocks:
            text = {"type": "text", "text": part.text, "index": self._index}
            return AIMessageChunk(content=[text])
        return AIMessageChunk(content=part.text)


def to_last_chunk(final: Final, name: str) -> AIMessageChunk:
    """Make the chunk that ends a reply: usage and metadata, once."""
    return AIMessageChunk(
        content="",
        response_metadata=_metadata(final, name),
        usage_metadata=_usage(final.usage),
        chunk_position="last",
    )


def _metadata(final: Final, name: str) -> dict[str, Any]:
    return {
        "model_name": name,
        "model_provider": "deltamem",
        "finish_reason": final.finish_reason,
    }


def _usage(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )
