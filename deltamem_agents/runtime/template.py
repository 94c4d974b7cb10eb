"""Messages to token ids, message by message, with the positions that write: the sole owner.

A template is rendered once for a whole conversation, with marks between the messages that only
this file knows; the text between two marks is tokenised by itself. Special tokens delimit messages,
so that the ids equal those of the whole text.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from deltamem_agents.errors import BoundaryError, ConfigError
from deltamem_agents.runtime.messages import Message, digest_of, normalise
from deltamem_agents.runtime.recognise import SHIPPED, recognise, shipped

__all__ = ["SHIPPED", "ChatTemplate", "RenderedMessage", "WritePolicy", "shipped"]

_MARK = f"\ue000{secrets.token_hex(8)}"
_BOUNDARY, _OPEN, _CLOSE = f"{_MARK}b\ue001", f"{_MARK}o\ue001", f"{_MARK}c\ue001"
_MARKS = {"message_boundary": _BOUNDARY, "content_open": _OPEN, "content_close": _CLOSE}
_CACHED_MESSAGES = 4096
_QUESTION = {"role": "user", "content": "."}


@dataclass(frozen=True)
class WritePolicy:
    """Which tokens of the canonical rendering are written to memory; the rest is only read.

    Args:
        system: the pinned system prompt and the tools.
        user: user messages.
        assistant: the model's own messages.
        tool: tool results.
        template: tokens that the template adds around a content (role headers, end marks).
    """

    system: bool = True
    user: bool = True
    assistant: bool = True
    tool: bool = True
    template: bool = True

    def writes(self, role: str) -> bool:
        """Tell whether the content of a message with this role is written."""
        return bool(getattr(self, role))


@dataclass(frozen=True)
class RenderedMessage:
    """One message as the model reads it.

    Args:
        role: system (the pinned prompt with the tools), user, assistant or tool.
        ids: its token ids, template tokens included.
        writes: for each id, whether it is written to memory.
    """

    role: str
    ids: tuple[int, ...]
    writes: tuple[bool, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


class ChatTemplate:
    """A tokenizer with a chat template and a write policy.

    Args:
        tokenizer: a fast tokenizer of transformers.
        source: the Jinja text, or the name of a shipped template (`chatml`, `qwen3`, `smollm3`);
            None takes the tokenizer's own, in our form of it where that renders the same.
        policy: which tokens write.
        variables: further variables for the template, for example `{"today": "1 May 2026"}`.

    Raises:
        ConfigError: there is no template, or it cannot serve the write policy.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str | None = None,
        *,
        policy: WritePolicy | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.policy = policy or WritePolicy()
        self.variables = dict(variables or {})
        if source is None:
            source = recognise(tokenizer)
        self.source = shipped(source) if source in SHIPPED else source
        self.marked = "message_boundary" in self.source
        self.reasons = "<think>" in self.source
        if not self.policy.template and not self.marked:
            raise ConfigError(
                "a write policy without template tokens needs a template that marks contents",
                got=f"WritePolicy(template=False) with {self.source[:60]!r}",
                remedy="Use a shipped template, or let template tokens write.",
            )
        self._lock = threading.Lock()
        self._tokens: OrderedDict[tuple[str, bool], RenderedMessage] = OrderedDict()

    @property
    def digest(self) -> str:
        """Hex sha256 of the template's text, its variables and the write policy."""
        return digest_of([self.source, self.variables, vars(self.policy)])

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        thinking: bool | None = None,
        generate: bool = False,
    ) -> list[RenderedMessage]:
        """Render a conversation message by message.

        Args:
            messages: plain dicts, oldest first; see runtime/messages.py.
            tools: JSON schemas of the tools as `{"type": "function", "function": {...}}`.
            thinking: the template's `enable_thinking`; None leaves it to the template.
            generate: whether the generation prompt follows, as a last element of role assistant.

        Returns:
            The pinned prompt first, with role system, where there is one (a system message, tools,
            or a template that always has one), then one element for each other message.

        Raises:
            MessageError: a message is malformed.
            BoundaryError: the template does not tell where its messages begin.
        """
        with self._lock:
            return self._render(messages, tools, thinking, generate)

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        thinking: bool | None,
        generate: bool,
    ) -> list[RenderedMessage]:
        entries = normalise(messages)
        pieces = self._pieces(entries, list(tools or []), thinking, generate)
        roles = [entry["role"] for entry in entries if entry["role"] != "system"]
        roles += ["assistant"] * generate
        if len(pieces) == len(roles) + 1:
            roles.insert(0, "system")
        if len(pieces) != len(roles):
            raise BoundaryError(
                "a template marks the beginning of each message",
                got=f"{len(pieces)} parts for {len(roles)} messages",
                remedy="Call message_boundary once before each message.",
            )
        return [self._tokenise(text, role) for text, role in zip(pieces, roles, strict=True)]

    def generation_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        thinking: bool | None = None,
    ) -> tuple[int, ...]:
        """Return the ids that open the assistant's next message."""
        return self.render(messages, tools, thinking=thinking, generate=True)[-1].ids

    def thought(
        self, messages: Sequence[Message] = (), *, thinking: bool | None = None
    ) -> Literal["none", "free", "open"]:
        """Tell how a reply may begin, as the generation prompt says.

        Args:
            messages: the conversation; its system messages count, since some templates read there
                whether to reason.
            thinking: the template's `enable_thinking`; None leaves it to the template.

        Returns:
            "none": without a thought; "free": the model may open one; "open": one is open already.
        """
        if not self.reasons:
            return "none"
        asked = [m for m in messages if m.get("role") == "system"]
        ids = self.generation_prompt([*asked, _QUESTION], thinking=thinking)
        prompt = str(self.tokenizer.decode(ids))
        if prompt.rstrip().endswith("<think>"):
            return "open"
        return "none" if "</think>" in prompt or thinking is False else "free"

    def _text(
        self, entries: list[dict[str, Any]], tools: list[Any], generate: bool, **variables: Any
    ) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                entries,
                tools=tools or None,
                chat_template=self.source,
                add_generation_prompt=generate,
                tokenize=False,
                **self.variables,
                **variables,
            )
        )

    def _pieces(
        self, entries: list[dict[str, Any]], tools: list[Any], thinking: bool | None, generate: bool
    ) -> list[str]:
        variables = {} if thinking is None else {"enable_thinking": thinking}
        if self.marked:
            text = self._text(entries, tools, generate, **variables, **_MARKS)
            return text.split(_BOUNDARY)[1:]
        return self._unmarked(entries, tools, generate, variables)

    def _unmarked(
        self, entries: list[dict[str, Any]], tools: list[Any], generate: bool, variables: Any
    ) -> list[str]:
        """Cut a foreign template's text where the rendering of each prefix ends."""
        head = entries[:1] if entries and entries[0]["role"] == "system" else []
        pinned = self._foreign_pinned(head, tools, variables)
        ends = [pinned] if pinned else [""]
        for length in range(len(head) + 1, len(entries) + 1):
            ends.append(self._text(entries[:length], tools, False, **variables))
        if generate:
            ends.append(self._text(entries, tools, True, **variables))
        for shorter, longer in pairwise(ends):
            if not longer.startswith(shorter):
                raise BoundaryError(
                    "a message's text does not depend on what follows it",
                    got=longer[-200:],
                    remedy="Give template= the name of a shipped template, or a Jinja text that "
                    "puts message_boundary before each message.",
                )
        pieces = [longer[len(shorter) :] for shorter, longer in pairwise(ends)]
        return [pinned, *pieces] if pinned else pieces

    def _foreign_pinned(self, head: list[Any], tools: list[Any], variables: Any) -> str:
        """Return what a foreign template puts before the first message's header."""
        user, reply = {"role": "user", "content": _MARK}, {"role": "assistant", "content": "."}
        first = self._text([*head, user], tools, False, **variables)
        earlier = self._text([user, reply], [], False, **variables)
        later = self._text([user, reply, user], [], False, **variables)[len(earlier) :]
        header = later.partition(_MARK)[0]
        before = first.partition(_MARK)[0]
        return before.removesuffix(header)

    def _tokenise(self, text: str, role: str) -> RenderedMessage:
        key = (text, self.policy.writes(role))
        if (found := self._tokens.get(key)) is not None and found.role == role:
            self._tokens.move_to_end(key)
            return found
        message = self._encode(text, role)
        self._tokens[key] = message
        while len(self._tokens) > _CACHED_MESSAGES:
            self._tokens.popitem(last=False)
        return message

    def _encode(self, text: str, role: str) -> RenderedMessage:
        before, _, rest = text.partition(_OPEN)
        content, _, after = rest.partition(_CLOSE)
        encoded = self.tokenizer(
            before + content + after, add_special_tokens=False, return_offsets_mapping=True
        )
        start, end = len(before), len(before) + len(content)
        everywhere = self.policy.template
        writes = tuple(
            self.policy.writes(role) and (everywhere or (start <= first and last <= end))
            for first, last in encoded["offset_mapping"]
        )
        return RenderedMessage(role, tuple(encoded["input_ids"]), writes)
