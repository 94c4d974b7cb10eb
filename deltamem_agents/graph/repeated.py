"""Where a forgotten value stands again: in messages and other channels, also of agents inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.graph.facts import ThreadFacts
from deltamem_agents.graph.past import Past
from deltamem_agents.graph.saved import (
    has_messages,
    messages_in,
    namespace_of,
    parent_of,
    ran_once,
)
from deltamem_agents.graph.scrub import texts_of
from deltamem_agents.graph.steps import Steps
from deltamem_agents.graph.turns import Repeat, repeats, said_by
from deltamem_agents.router.typed import typed_values

Repeats = Literal["report", "forget"]


def widen(
    past: Past, facts: ThreadFacts, given: Sequence[str], mode: Repeats
) -> Steps[tuple[list[str], list[Repeat]]]:
    """Follow what goes into the agents inside; with "forget", choose what repeats it too.

    Args:
        past: with the chosen messages.
        facts: of the thread; they tell values.
        given: values that the caller names.
        mode: whether repeats are chosen, until none is left that can be.

    Returns:
        The values that are forgotten, and the messages that say one of them and stay.
    """
    while True:
        told = [*given, *_values(past.lost.values()), *(yield from facts.told_by(past.lost))]
        past.follow()
        found = _repeated(past, told)
        if mode == "report" or not past.choose(_answered(past, found)):
            return told, found


def _values(messages: Iterable[AnyMessage]) -> list[str]:
    """Typed values that the user or a tool told; what the model made up tells nothing."""
    found = []
    for message in messages:
        if isinstance(message, AIMessage):
            continue
        text = said_by(message)
        found += [text[value.start : value.end] for value in typed_values(text)]
    return found


def _repeated(past: Past, values: Sequence[str]) -> list[Repeat]:
    """Messages of the branches' newest checkpoints that say a forgotten value again."""
    found: dict[tuple[str, str], Repeat] = {}
    for tip in past.tips():
        for repeat in repeats(messages_in(tip), values, without=past.gone):
            found[repeat.message_id, repeat.value] = repeat
    for tip in _inside(past):
        held = messages_in(tip) if has_messages(tip) else []
        for repeat in repeats(held, values, without=past.gone):
            named = replace(repeat, namespace=namespace_of(tip))
            found.setdefault((repeat.message_id, repeat.value), named)
    return list(found.values())


def _inside(past: Past) -> list[CheckpointTuple]:
    """The newest checkpoints of agents inside; what one call alone had may go as a whole."""
    return [tip for tip in past.tips(inside=True) if not (ran_once(tip) and past.derived(tip))]


def _answered(past: Past, found: Iterable[Repeat]) -> set[str]:
    """Ids of the graph's messages with which these go, as far as the past tells."""
    chosen = {repeat.message_id for repeat in found if not repeat.namespace}
    for repeat in found:
        told = repeat.namespace and _first(past, repeat)
        during = past.answered_during(told) if told else []
        if len(during) == 1:
            chosen |= {message.id for message in during[0] if message.id}
    return chosen


def _first(past: Past, repeat: Repeat) -> CheckpointTuple | None:
    """The checkpoint at which an agent inside was told something; None where it was pruned."""
    space = [one for one in past.saved if namespace_of(one) == repeat.namespace]
    known = {one.checkpoint["id"] for one in space}
    for one in space:
        if any(message.id == repeat.message_id for message in messages_in(one)):
            above = parent_of(one)
            return one if above is None or above in known else None
    return None


def channels_with(past: Past, tip: CheckpointTuple, values: Iterable[str]) -> tuple[str, ...]:
    """Other channels in which a forgotten value stands: `name`, or `namespace/name` inside."""
    wanted = [value.lower() for value in values if len(value) > 2]
    return tuple(
        name if one is tip else f"{namespace_of(one)}/{name}"
        for one in (tip, *_inside(past))
        for name, text in texts_of(one, past.gone).items()
        if any(value in text.lower() for value in wanted)
    )
