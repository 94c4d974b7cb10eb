"""A small problem that a memory can learn in seconds, and tiny models to learn it with."""

from __future__ import annotations

import random
from typing import Any

import pytest

from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.testing import byte_tokenizer
from deltamem_agents.training.chats import Chat, chat_from

INSTRUMENTS = ("cello", "piano", "violin", "harp", "guitar", "flute")


def conversation(turns: int, *, system: bool = False, seed: int = 0) -> Chat:
    """So many turns of telling and confirming."""
    draw = random.Random(seed)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}] * system
    for number in range(turns):
        told = f"The code of door {number} is {draw.randint(10, 10 ** draw.randint(2, 9))}."
        messages += [
            {"role": "user", "content": told},
            {"role": "assistant", "content": f"Noted: door {number}."},
        ]
    return chat_from({"messages": messages}, f"made:{seed}")


def instrument(draw: random.Random) -> dict[str, Any]:
    """Which of six instruments is told, then asked."""
    word = draw.choice(INSTRUMENTS)
    return {
        "messages": [
            {"role": "user", "content": f"My sister plays the {word}."},
            {"role": "assistant", "content": "Noted."},
            {"role": "user", "content": "What does she play?"},
            {"role": "assistant", "content": f"The {word}"},
        ]
    }


@pytest.fixture(scope="session")
def template() -> ChatTemplate:
    return ChatTemplate(byte_tokenizer())
