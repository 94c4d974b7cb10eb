"""Told messages as turns, and as many of them as a prompt may hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deltamem_agents.evaluation.frame import Message
from deltamem_agents.runtime.engine import Engine

Turn = tuple[Message, ...]


def turns_of(told: Iterable[Message]) -> list[Turn]:
    """A user message with all that follows it up to the next one."""
    turns: list[list[Message]] = []
    for message in told:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return [tuple(turn) for turn in turns]


def text_of(turn: Turn) -> str:
    """What is said in a turn."""
    return "\n".join(str(message["content"]) for message in turn)


def bytes_of(texts: Iterable[str]) -> int:
    """Bytes of texts in UTF-8."""
    return sum(len(text.encode()) for text in texts)


def count_of(engine: Engine, told: Sequence[Message]) -> int:
    """Tokens of told messages."""
    return engine.count_tokens(told, generate=False) if told else 0


def fill(
    engine: Engine, turns: Sequence[Turn], ranked: Sequence[int], question: str, budget: int
) -> list[Message]:
    """The best turns that fit beside a question, in the order in which they were told.

    Args:
        engine: counts tokens.
        turns: all of them.
        ranked: places of turns, best first; one that does not fit is skipped.
        question: stands behind them.
        budget: most tokens of the whole prompt.
    """
    chosen: list[int] = []
    for place in ranked:
        tried = [message for one in sorted([*chosen, place]) for message in turns[one]]
        prompt = [*tried, {"role": "user", "content": question}]
        if engine.count_tokens(prompt) <= budget:
            chosen.append(place)
    return [message for place in sorted(chosen) for message in turns[place]]
