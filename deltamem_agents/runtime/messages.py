"""Messages as the runtime knows them: plain dicts, checked and brought into one form.

A message is `{"role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content"}`; all
but the first two may be missing. `summary: True` marks a message that stands for messages that were
taken out. A tool call is `{"id", "function": {"name", "arguments"}}`, or the shorter `{"id",
"name", "args"}`. Malformed calls that the model made are kept as text in `invalid_tool_calls`, a
list of `{"name", "args"}` (name None: args is all there was), and rendered as text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_agents.errors import MessageError

Message = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")
# Made once: a history is named anew at every call.
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def normalise(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Bring messages into one form; leading system messages become one.

    Args:
        messages: the conversation, oldest first.

    Returns:
        New dicts with `role`, `content` (a string), `tool_calls` (a list), `reasoning_content`
        (a string or None), and `tool_call_id` and `name` where given.

    Raises:
        MessageError: an unknown role, a content that is no string, or a system message that comes
            after another message.
    """
    result: list[dict[str, Any]] = []
    for message in messages:
        entry = _entry(message)
        if entry["role"] != "system" or not result:
            result.append(entry)
        elif len(result) == 1 and result[0]["role"] == "system":
            result[0]["content"] += "\n\n" + entry["content"]
        else:
            raise MessageError(
                "a system message stands at the beginning of the conversation",
                got=entry["content"],
                remedy="Move it to the front, or send it as a user message.",
            )
    return result


def _entry(message: Message) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise MessageError(
            f"a message's role is one of {', '.join(ROLES)}",
            got=role,
            remedy="Convert the message before it is sent.",
        )
    content = message.get("content")
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise MessageError(
            "a message's content is text",
            got=content,
            remedy="Send text only: this model reads no images, audio or files.",
        )
    entry: dict[str, Any] = {
        "role": role,
        "content": content,
        "tool_calls": [_call(call) for call in message.get("tool_calls") or []],
        "reasoning_content": message.get("reasoning_content") or None,
    }
    for call in message.get("invalid_tool_calls") or []:
        entry["content"] += ("\n" if entry["content"] else "") + _invalid(call)
    for key in ("tool_call_id", "name", "summary"):
        if message.get(key) is not None:
            entry[key] = message[key]
    return entry


def _call(call: Message) -> dict[str, Any]:
    function = call.get("function")
    if function is None:
        function = {"name": call.get("name"), "arguments": call.get("args", {})}
    if not isinstance(function.get("name"), str):
        raise MessageError(
            "a tool call names its tool",
            got=dict(call),
            remedy='Give {"name": ..., "args": {...}} or {"function": {"name", "arguments"}}.',
        )
    return {
        "type": "function",
        "id": call.get("id"),
        "function": {"name": function["name"], "arguments": function.get("arguments", {})},
    }


def _invalid(call: Message) -> str:
    text = str(call.get("args") or "")
    if call.get("name"):
        text = f'{{"name": {json.dumps(call["name"], ensure_ascii=False)}, "arguments": {text}}}'
    return f"<tool_call>\n{text}\n</tool_call>"


def digest(entry: Message) -> str:
    """Name a normalised message by what stays of it in later prompts: hex sha256.

    Ids of messages and of tool calls are left out, since frameworks renew them; so is reasoning,
    which templates drop from later prompts.
    """
    calls = [
        [call["function"]["name"], _arguments(call["function"]["arguments"])]
        for call in entry.get("tool_calls") or []
    ]
    return digest_of([entry["role"], entry["content"], calls])


def _arguments(arguments: object) -> object:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def digest_of(value: object) -> str:
    """Return the hex sha256 of a value's JSON form (keys sorted)."""
    return hashlib.sha256(_JSON.encode(value).encode("utf-8", "surrogatepass")).hexdigest()


def roll(previous: str, digests: Sequence[str]) -> str:
    """Continue a rolling digest of messages by more of them."""
    for name in digests:
        previous = hashlib.sha256(f"{previous}:{name}".encode()).hexdigest()
    return previous
