"""How likely a model finds a given answer: teacher forcing by the way that serves."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.core.state import MemoryState
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.messages import Message
from deltamem_agents.runtime.scheduler import Job
from deltamem_agents.runtime.session import Feed
from deltamem_agents.runtime.turn import Request, Steps, Turn


def log_probability(
    engine: Engine, memory: MemoryState | None, messages: Sequence[Message], answer: str
) -> tuple[float, int]:
    """Log-probability (nats) of an answer's tokens after a prompt, and how many they are.

    Each token is read as a generated one would be, memory included, so that the sum is the
    probability of greedy or sampled decoding giving just this answer. Nothing is kept.

    Args:
        engine: model and window.
        memory: before the messages that it has not read; None for an empty one.
        messages: the conversation with the question at its end.
        answer: the text to be scored, as the reply's beginning.
    """
    turn = Turn(engine, Request(memory or engine.empty_state(), messages))
    ids = engine.tokenizer(answer, add_special_tokens=False)["input_ids"]
    found: list[float] = []
    _drive(engine, _steps(turn, ids, found.append))
    return sum(found), len(found)


def _steps(turn: Turn, ids: Sequence[int], give: Callable[[float], None]) -> Steps:
    writes = turn.engine.template.policy.writes("assistant")
    try:
        yield from turn.advance(generate=True)
        pinned, parts = turn.render(turn.first, len(turn.items), generate=True)
        prompt = parts.pop()
        logits = yield from turn.session.sync(pinned, parts, prompt)
        for token in ids:
            assert logits is not None
            give(float(torch.log_softmax(logits.float(), -1)[token]))
            logits = yield from turn.session.extend(token, writes)
    finally:
        turn.abandon()


def _drive(engine: Engine, steps: Generator[Feed, Tensor, None]) -> None:
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    job = Job(steps, ended.put)
    engine.scheduler.submit(job)
    try:
        error: Any = ended.get()
    finally:
        job.cancel()
    if error is not None:
        raise error
