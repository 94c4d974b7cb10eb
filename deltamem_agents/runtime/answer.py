"""Generating a reply within a turn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import GenerationTimeoutError
from deltamem_agents.runtime.reply import Part, ReplyParser
from deltamem_agents.runtime.sampling import Sampler, Sampling
from deltamem_agents.runtime.session import Feed
from deltamem_agents.runtime.text import Detokenizer, StopStrings
from deltamem_agents.runtime.turn import Steps, Turn


class Constraint(Protocol):
    """A grammar that says which tokens may come next."""

    def allowed(self, left: int) -> Tensor | None:
        """Bool[V], or None where every token may come; `left` is how many still may."""

    def in_time(self, token: int, left: int) -> int:
        """The token, if the reply can still end after it; else one that brings it to an end."""

    def accept(self, token: int, *, thinking: bool) -> None:
        """Go on by a token; `thinking` tells whether a thought was going on before it."""


class Grammar(Protocol):
    """Makes a constraint for each reply."""

    @property
    def ready(self) -> bool:
        """Whether that takes no time to speak of."""

    def prepare(self) -> Any:
        """Make it ready."""

    def __call__(self) -> Constraint:
        """Make a constraint for one reply."""


@dataclass(frozen=True)
class Options:
    """How a reply is generated.

    Args:
        sampling: how tokens are chosen.
        stop: strings that end the reply and are not part of it; tool calls are no text and may
            contain them.
        timeout: seconds from the start of the turn; None for no limit.
        constraint: the grammar of the reply, or None.
        parse_tools: whether `<tool_call>` in the reply is a call.
        pieces: whether pieces of the reply are passed on as it grows. Whoever wants only its end
            should not be woken for each: two threads that take turns cost more than they say.
        parse_arguments: turns the text of a call's arguments into a dict, or raises ValueError.
    """

    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()
    timeout: float | None = None
    constraint: Grammar | None = None
    parse_tools: bool = True
    pieces: bool = True
    parse_arguments: Callable[[str], Any] = json.loads


@dataclass(frozen=True)
class Usage:
    """Tokens of a call.

    Args:
        input_tokens: system prompt, tools, the messages in view and the generation prompt.
        output_tokens: tokens that were generated.
        cached_tokens: those of the input that the live session had read already.
        reasoning_tokens: those of the output that are reasoning.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Final:
    """The end of a reply.

    Args:
        state: the new memory.
        message: the reply as a message dict.
        finish_reason: "stop", "length" or "tool_calls". With "length", what the model wanted to
            say is cut: content that follows a schema still does, with less in it; a call that is
            cut is an invalid one.
        usage: tokens of the call.
    """

    state: MemoryState
    message: dict[str, Any]
    finish_reason: str
    usage: Usage


Event = Part | Final


class Answer:
    """Generates one reply.

    Args:
        turn: the turn that it belongs to.
        options: how.
        emit: is called with each piece, from the thread that runs the model.
    """

    def __init__(self, turn: Turn, options: Options, emit: Callable[[Event], None]) -> None:
        self.turn, self.options, self.emit = turn, options, emit
        engine = turn.engine
        self.ids: list[int] = []
        self.reasoning_tokens = 0
        self.input_tokens = 0
        self.finish = "length"
        self._cut = False  # by a grammar, which ended the reply before the model would have
        self._over = False  # the reply is complete; what follows takes no time to speak of
        self._deadline = None if options.timeout is None else time.monotonic() + options.timeout
        self._text = Detokenizer(engine.tokenizer, engine.token_texts)
        self._stops = StopStrings(options.stop)
        self._parser = self._new_parser()
        self._writes = engine.template.policy.writes("assistant")

    def steps(self) -> Steps:
        """Read the prompt, generate, read the rest of the canonical reply, hand over the memory."""
        inner = self._steps()
        try:
            feed = next(inner)
            while True:
                if not self._over:
                    self._check_time()
                try:
                    logits = yield feed
                except Exception as error:
                    feed = inner.throw(error)
                else:
                    feed = inner.send(logits)
        except StopIteration:
            return
        finally:
            inner.close()

    def _steps(self) -> Steps:
        turn = self.turn
        try:
            yield from turn.advance(generate=True)
            fed = turn.session.fed
            logits = yield from self._prompt()
            cached = self.input_tokens - (turn.session.fed - fed)
            yield from self._generate(logits)
            self._over = True
            message = self._close()
            turn.add_reply(message)
            yield from turn.settle(follower=turn.follower())
        except BaseException:
            turn.abandon()
            raise
        assert turn.progress.state is not None
        usage = Usage(self.input_tokens, len(self.ids), max(0, cached), self.reasoning_tokens)
        called = self.finish == "stop" and message.get("tool_calls")
        finish = "tool_calls" if called else self.finish
        self.emit(Final(turn.progress.state, message, finish, usage))

    def _new_parser(self, *, thinking: bool = False) -> ReplyParser:
        return ReplyParser(
            reasons=self.turn.engine.template.reasons,
            thinking=thinking,
            tools=self.options.parse_tools,
            parse=self.options.parse_arguments,
        )

    def _prompt(self) -> Generator[Feed, Tensor, Tensor]:
        turn = self.turn
        pinned, parts = turn.render(turn.first, len(turn.items), generate=True)
        prompt = parts.pop()
        self.input_tokens = sum(map(len, parts)) + len(prompt) + (len(pinned) if pinned else 0)
        if turn.engine.tokenizer.decode(prompt.ids).rstrip().endswith("<think>"):
            self._parser = self._new_parser(thinking=True)
        seen = [token for part in (*parts, prompt) for token in part.ids]
        self._sampler = Sampler(self.options.sampling, seen)
        logits = yield from turn.session.sync(pinned, parts, prompt)
        assert logits is not None  # a generation prompt has tokens
        return logits

    def _generate(self, logits: Tensor) -> Steps:
        engine, session = self.turn.engine, self.turn.session
        room = engine.max_positions - session.length - engine.closing_tokens
        limit = min(self.options.sampling.max_tokens or room, room)
        constraint = self.options.constraint() if self.options.constraint else None
        while len(self.ids) < limit:
            allowed = constraint.allowed(limit - len(self.ids)) if constraint else None
            if allowed is not None and allowed.shape[0] < logits.shape[-1]:
                spare = logits.shape[-1] - allowed.shape[0]
                allowed = torch.nn.functional.pad(allowed, (0, spare))
            token = self._sampler.choose(logits, allowed)
            if constraint:
                token = self._in_time(constraint, token, limit - len(self.ids))
            self.ids.append(token)
            if token in engine.end_tokens:
                self.finish = "length" if self._cut else "stop"
                return
            if constraint:
                constraint.accept(token, thinking=self._parser.in_reasoning)
            self._show(self._text.push(token))
            if self._stops.found:
                self.finish = "length" if self._cut else "stop"
                return
            if len(self.ids) < limit:
                after = yield from session.extend(token, self._writes)
                assert after is not None
                logits = after

    def _in_time(self, constraint: Constraint, token: int, left: int) -> int:
        kept = constraint.in_time(token, left)
        if kept != token and not self._cut:
            self._cut = True
            if kept not in self.turn.engine.end_tokens:
                self._parser.cut()
        return kept

    def _show(self, text: str) -> None:
        # Stop strings are looked for in text only: a call that one cut in two would be of no use.
        shown = self._stops.flush() + text if self._parser.in_call else self._stops.push(text)
        parts = self._parser.push(shown)
        self.reasoning_tokens += self._parser.in_reasoning
        self._pass_on(parts)

    def _pass_on(self, parts: Sequence[Part]) -> None:
        if self.options.pieces:
            for part in parts:
                self.emit(part)

    def _close(self) -> dict[str, Any]:
        rest = "" if self._stops.found else self._stops.push(self._text.flush())
        if not self._stops.found:
            rest += self._stops.flush()
        self._pass_on([*self._parser.push(rest), *self._parser.flush()])
        return self._parser.message()

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise GenerationTimeoutError(
                f"a reply takes at most timeout={self.options.timeout} seconds",
                got=f"{len(self.ids)} tokens so far",
                remedy="Raise timeout, or lower max_tokens.",
            )
