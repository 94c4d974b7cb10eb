"""Obeying a system prompt: the refusal sentence that it gives, and the tools that it lists.

Each case is a conversation of its own, all of it in view, answered greedily by the served model. A
refusal sentence has an opening and a body that the built-in model's training never had; a tool is
asked for in a wording, and with a value, that training never put to it. What was told is asked
under the same prompt: to refuse everything is no obedience.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deltamem_agents.evaluation.metrics import Share
from deltamem_agents.runtime.answer import Final
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.training.instructions import Instruction, Instructor
from deltamem_agents.training.world import World

REFUSED, ANSWERED, CALLED = (
    "never told: the prompt's sentence", "told: the fact's sentence", "asked for a tool: its call"
)  # fmt: skip


def evaluate_instructed(
    engine: Engine,
    *,
    refusals: int = 20,
    calls: int = 60,
    facts: int = 2,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Share]:
    """Ask under system prompts.

    Args:
        engine: its window must hold a prompt with one tool and a short talk.
        refusals: conversations whose prompt gives a sentence for what is unknown.
        calls: conversations whose prompt lists a tool.
        facts: told in each of the former.
        seed: the same seed gives the same conversations.
        tick: called after each.

    Returns:
        Shares of replies that are right to the letter, or of calls with the right name and
        arguments: `REFUSED`, `ANSWERED`, `CALLED`.
    """
    world = World(seed, "test")
    instructor = Instructor(world.random, "test")
    refused, answered, called = [], [], []
    for _ in range(refusals):
        prompt = _drawn(instructor, 0)
        turns, truth = world.history(facts, 1, updates=0.0)
        told = [message for turn in turns for message in turn.messages()]
        unknown = world.question(world.unknown(list(truth)), None)
        subject = world.random.choice(list(truth))
        known = world.question(subject, truth[subject])
        refused.append(_said(engine, prompt, told, unknown.user)["content"] == prompt.refusal)
        answered.append(_said(engine, prompt, told, known.user)["content"] == known.assistant)
        tick()
    for _ in range(calls):
        prompt = _drawn(instructor, 1)
        turn = instructor.turn(prompt.tools[0])
        called.append(_calls(_said(engine, prompt, [], turn.user)) == _calls(turn.messages()[1]))
        tick()
    return {name: Share.of(outcomes) for name, outcomes in
            ((REFUSED, refused), (ANSWERED, answered), (CALLED, called))}  # fmt: skip


def _drawn(instructor: Instructor, tools: int) -> Instruction:
    """A prompt with a tool, or one with a sentence for what is unknown."""
    while True:
        prompt = instructor.instruction(tools)
        if prompt.tools or prompt.refusal:
            return prompt


def _said(
    engine: Engine, prompt: Instruction, told: Sequence[Mapping[str, Any]], text: str
) -> dict[str, Any]:
    messages = [*prompt.messages(), *told, {"role": "user", "content": text}]
    *_, final = engine.generate(None, messages, tools=prompt.schemas() or None)
    assert isinstance(final, Final)
    return final.message


def _calls(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and arguments of a message's calls."""
    found = [call["function"] for call in message.get("tool_calls") or ()]
    return [(one["name"], _parsed(one["arguments"])) for one in found]


def _parsed(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments
