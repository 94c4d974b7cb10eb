"""Where a forgotten value stands again: in messages and other channels, also of agents inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.graph.facts import ThreadFacts
from deltamem_agents.graph.past import Past
from deltamem_agents.graph.remains import LONG
from deltamem_agents.graph.saved import (
    Place,
    has_messages,
    messages_in,
    namespace_of,
    parent_of,
    place_of,
    ran_once,
)
from deltamem_agents.graph.steps import Steps
from deltamem_agents.graph.turns import Repeat, is_summary, repeats, said_by
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
        lost = list(past.lost.values())
        stored = yield from facts.told_by(past.lost)
        told = [*given, *_values(lost), *stored, *_texts(lost)]
        past.follow()
        found = _repeated(past, told)
        if mode == "report" or not past.choose(_answered(past, found)):
            return told, found


def _values(messages: Iterable[AnyMessage]) -> list[str]:
    """Typed values that the user or a tool told; what the model made up tells nothing."""
    texts = [said_by(message) for message in messages if not _made_up(message)]
    return [text[value.start : value.end] for text in texts for value in typed_values(text)]


def _texts(messages: Iterable[AnyMessage]) -> list[str]:
    """Whole texts of the user or a tool that are long enough to be known again."""
    texts = [str(message.text).strip() for message in messages if not _made_up(message)]
    return [text for text in texts if len(text) >= LONG]


def _made_up(message: AnyMessage) -> bool:
    return isinstance(message, AIMessage) or is_summary(message)


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
    return [*found.values(), *_summaries(past)]


def _summaries(past: Past) -> list[Repeat]:
    """Summaries, of any checkpoint, in whose place a forgotten message or such a summary stood."""
    held: dict[Place, dict[str, AnyMessage]] = {}
    tainted: dict[str, Repeat] = {}
    for one in past.saved:
        space = namespace_of(one)
        before = held.get((space, parent_of(one) or ""), {})
        now = {each.id: each for each in (messages_in(one) if has_messages(one) else ()) if each.id}
        held[place_of(one)] = now
        if not any(name in past.gone or name in tainted for name in before.keys() - now.keys()):
            continue
        for name, each in now.items():
            if name not in before and is_summary(each):
                inside = "" if space == past.namespace else space
                tainted.setdefault(name, Repeat(name, "", said_by(each), inside))
    return [repeat for name, repeat in tainted.items() if name not in past.gone]


def newest(past: Past, tip: CheckpointTuple) -> list[CheckpointTuple]:
    """The thread's newest checkpoint, and those of agents inside."""
    return [tip, *_inside(past)]


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


def quoting(found: Iterable[Repeat], past: Past) -> bool:
    """Whether a message that stays quotes a forgotten one at length, or sums it up.

    One that says the same and no more was told by itself.
    """
    texts = set(_texts(past.lost.values()))
    return any(
        not one.value or (one.value in texts and one.text.strip() != one.value) for one in found
    )
