"""The engine: a model with its tokenizer, template, window and scheduler; values in, values out."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np
import torch

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import BoundaryError
from deltamem_agents.runtime.answer import Answer, Event, Grammar, Options
from deltamem_agents.runtime.grammar import Grammars
from deltamem_agents.runtime.live import LiveSessions
from deltamem_agents.runtime.messages import Message
from deltamem_agents.runtime.runner import Runner
from deltamem_agents.runtime.scheduler import Job, Scheduler
from deltamem_agents.runtime.session import Session
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.runtime.turn import Request, Steps, Turn, read_turn


class Asked(TypedDict, total=False):
    """What else a caller asks of a turn.

    Args:
        tools: JSON schemas of the tools.
        thinking: the template's `enable_thinking`; None leaves it to the template.
        on_divergence: "raise" (default), or "rebuild" from the boundary where the history allows.
    """

    tools: Sequence[Mapping[str, Any]] | None
    thinking: bool | None
    on_divergence: str


class Engine:
    """Runs conversations; any number of them, from any thread or event loop.

    Args:
        model: a causal LM of transformers with a δ-mem adapter attached.
        tokenizer: its fast tokenizer.
        fingerprint: sha256 (hex) of adapter, backbone, tokenizer, template and write policy.
        template: renders conversations.
        context_window: most visible tokens of a prompt.
        low_water: visible tokens down to which turns leave when the window is full.
        max_positions: most tokens of prompt and reply together.
        live_bytes: bytes of keys and values kept of recent conversations.
        queue_size: most turns in work or waiting.
        name: what the model is called in answers' metadata.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        fingerprint: str,
        template: ChatTemplate,
        context_window: int,
        low_water: int,
        max_positions: int,
        live_bytes: int = 2**30,
        queue_size: int = 256,
        name: str = "",
    ) -> None:
        from deltamem_agents.adapter import adapter_config
        from deltamem_agents.adapter.model import plan_of

        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.fingerprint, self.name = fingerprint, name
        self.context_window, self.low_water = context_window, low_water
        self.max_positions = max_positions
        self.by_segment = bool(adapter_config(model).by_segment)
        if adapter_config(model).write == "sentence":
            raise BoundaryError(
                "an adapter of a chat model writes by token or by message",
                got="write='sentence'",
                remedy="Use the adapter with plain transformers, giving segment_ids.",
            )
        self.memory_shape = tuple(plan_of(model).shape)
        self.live = LiveSessions(live_bytes)
        self.runner = Runner(model, by_segment=self.by_segment)
        self.scheduler = Scheduler(self.runner, queue_size=queue_size)
        self.token_texts: dict[int, str] = {}  # of single tokens, as they come up in replies

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a reply."""
        config = getattr(self.model, "generation_config", None)
        given = getattr(config, "eos_token_id", None)
        ids = set(given) if isinstance(given, (list, tuple)) else {given}
        ids.add(self.tokenizer.eos_token_id)
        return frozenset(int(token) for token in ids if token is not None)

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles what decoding must follow."""
        return Grammars(self.tokenizer, self.end_tokens)

    @cached_property
    def closing_tokens(self) -> int:
        """How many tokens the template puts behind a reply's text."""
        messages = [{"role": "user", "content": "."}, {"role": "assistant", "content": "."}]
        return len(self.template.render(messages)[-1])

    def empty_state(self) -> MemoryState:
        """A memory that has read nothing."""
        zeros = np.zeros(self.memory_shape, np.float32)
        return MemoryState(zeros, zeros, Ledger(), 0, self.fingerprint)

    def new_session(self, state: np.ndarray[Any, Any]) -> Session:
        """A session that starts from a memory array [layers, H, R, R]."""
        memory = torch.tensor(state, device=self.runner.device)
        return Session(self.model, memory, by_segment=self.by_segment)

    def read(
        self,
        state: MemoryState | None,
        messages: Sequence[Message],
        **asked: Unpack[Asked],
    ) -> MemoryState:
        """Read a history into a memory without an answer: ingest, rebuild, forget.

        Args:
            state: the memory before; None for an empty one.
            messages: the whole history, or what is left of it; what was read is not read again.
            **asked: see `Asked`.

        Returns:
            The memory after the last message.

        Raises:
            MessageError, StateError, DivergenceError, ContextWindowError, QueueFullError: see
            there.
        """
        turn = self._turn(state, messages, asked)
        with contextlib.closing(self._run(lambda emit: read_turn(turn))) as events:
            for _ in events:
                pass
        assert turn.progress.state is not None
        return turn.progress.state

    async def aread(
        self,
        state: MemoryState | None,
        messages: Sequence[Message],
        **asked: Unpack[Asked],
    ) -> MemoryState:
        """As `read`; cancelling the task stops the reading."""
        turn = self._turn(state, messages, asked)
        async with contextlib.aclosing(self._arun(lambda emit: read_turn(turn))) as events:
            async for _ in events:
                pass
        assert turn.progress.state is not None
        return turn.progress.state

    def generate(
        self,
        state: MemoryState | None,
        messages: Sequence[Message],
        *,
        options: Options | None = None,
        **asked: Unpack[Asked],
    ) -> Generator[Event, None, None]:
        """Answer a history.

        Args:
            state: the memory before; None for an empty one.
            messages: the whole history, or what is left of it.
            options: sampling, stop strings, timeout, grammar.
            **asked: see `Asked`.

        Yields:
            Pieces of the reply, then one `Final` with the new memory. Closing the iterator stops
            the generation before its next token; there is no new memory then.

        Raises:
            MessageError, StateError, DivergenceError, ContextWindowError, QueueFullError,
            GenerationTimeoutError: see there.
        """
        turn, options = self._turn(state, messages, asked), options or Options()
        if options.constraint is not None:
            options.constraint.prepare()
        return self._run(lambda emit: Answer(turn, options, emit).steps())

    def agenerate(
        self,
        state: MemoryState | None,
        messages: Sequence[Message],
        *,
        options: Options | None = None,
        **asked: Unpack[Asked],
    ) -> AsyncGenerator[Event, None]:
        """As `generate`, for event loops; cancelling the task stops the generation."""
        turn, options = self._turn(state, messages, asked), options or Options()
        return self._arun(
            lambda emit: Answer(turn, options, emit).steps(), options.constraint
        )

    def count_tokens(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        generate: bool = True,
    ) -> int:
        """Count the tokens of a prompt, with tools and generation prompt."""
        parts = self.template.render(messages, tools, thinking=thinking, generate=generate)
        return sum(map(len, parts))

    def _turn(self, state: MemoryState | None, messages: Sequence[Message], asked: Asked) -> Turn:
        return Turn(self, Request(state or self.empty_state(), messages, **asked))

    def _run(
        self, start: Callable[[Callable[[Event], None]], Steps]
    ) -> Generator[Event, None, None]:
        events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        job = Job(
            start(lambda event: events.put(("event", event))),
            lambda error: events.put(("end", error)),
        )
        self.scheduler.submit(job)
        try:
            while True:
                kind, value = events.get()
                if kind == "end":
                    if value is not None:
                        raise value
                    return
                yield value
        finally:
            job.cancel()

    async def _arun(
        self,
        start: Callable[[Callable[[Event], None]], Steps],
        constraint: Grammar | None = None,
    ) -> AsyncGenerator[Event, None]:
        if constraint is not None and not constraint.ready:
            await asyncio.to_thread(constraint.prepare)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

        def send(kind: str, value: Any) -> None:
            try:
                loop.call_soon_threadsafe(events.put_nowait, (kind, value))
            except RuntimeError:  # the loop is closed: nobody listens any more
                job.cancel()

        job = Job(start(lambda event: send("event", event)), lambda error: send("end", error))
        self.scheduler.submit(job)
        try:
            while True:
                kind, value = await events.get()
                if kind == "end":
                    if value is not None:
                        raise value
                    return
                yield value
        finally:
            job.cancel()
