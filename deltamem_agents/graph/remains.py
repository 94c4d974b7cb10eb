"""What a thread still says of what it has forgotten, outside of the messages that stay."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.forms import Name, Said, said
from deltamem_agents.graph.past import FORGOTTEN_KEY, Past
from deltamem_agents.graph.saved import MESSAGES_KEY, has_messages, messages_in, namespace_of
from deltamem_agents.graph.scrub import mentions, parts_of, scrub
from deltamem_agents.graph.state import MEMORY_KEY
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread
from deltamem_agents.graph.turns import whole
from deltamem_agents.graph.writing import is_pending

LONG = 16
"""Characters from which a text is looked for within others; a shorter one stands by chance."""
_SHORT = 2  # "ok" tells nothing
_OWN = ("source", "step", "parents", "run_id", FORGOTTEN_KEY)  # metadata that no user gave


@dataclass(frozen=True)
class Lost:
    """What is forgotten, in the forms in which it may be left.

    Args:
        names: ids of the messages, and what they said and no message that stays says: so a copy
            without an id is known.
        texts: what they said and no message that stays says.
        stays: what messages say that stay.
    """

    names: frozenset[Name]
    texts: frozenset[str]
    stays: frozenset[str]


def lost_in(past: Past) -> Lost:
    """What a past loses; asked for when all are chosen."""
    gone: set[Said | None] = set()
    stays: set[Said | None] = set()
    known: set[int] = set()
    for one in past.saved:
        for message in messages_in(one) if has_messages(one) else ():
            if id(message) not in known:
                known.add(id(message))
                (gone if message.id in past.gone else stays).add(said(message))
    alone = {each for each in gone - stays if each}
    heard = frozenset(each[1] for each in stays if each)
    texts = frozenset(text for _, text in alone if len(text) > _SHORT) - heard
    return Lost(frozenset({*past.gone, *alone}), texts, heard)


def channels_with(
    tips: Iterable[CheckpointTuple], own: str, lost: Lost, values: Iterable[str]
) -> list[str]:
    """Channels of the newest checkpoints in which a forgotten value stands."""
    forms = _forms(values, lost)
    return [
        _named(one, name, own)
        for one in tips
        for name, value in one.checkpoint["channel_values"].items()
        if name not in (MESSAGES_KEY, MEMORY_KEY) and not is_pending(name)
        for text in ["\n".join(_leaves(scrub(value, lost.names)))]
        if any(form.search(text) for form in forms)
    ]


def remaining(thread: Thread, lost: Lost, values: Iterable[str]) -> Steps[list[str]]:
    """Look through all that the thread holds now, once it is rewritten.

    Args:
        thread: which.
        lost: what it has forgotten.
        values: what metadata are searched for too.

    Returns:
        The channels, of any checkpoint, that still hold a forgotten message or its text, and
        `metadata.key` where a run's metadata says it.
    """
    forms = _forms(values, lost)
    saver, own = thread.saver, thread.place.namespace
    owned = isinstance(saver, SQLAlchemySaver)  # of others the old writes stay
    config: Any = {"configurable": {"thread_id": thread.place.thread}}
    search = _Search(lost, set())

    def look(one: CheckpointTuple) -> list[str]:
        metadata: Any = {name: told for name, told in one.metadata.items() if name not in _OWN}
        told = [f"metadata.{name}" for name, value in metadata.items() if search.finds(value)]
        told += [
            f"metadata.{name}"
            for name, value in metadata.items()
            if any(form.search(leaf) for leaf in _leaves(value) for form in forms)
        ]
        return [*(_named(one, name, own) for name in search.in_channels(one, owned)), *told]

    async def alooked() -> list[str]:
        return [name async for one in saver.alist(config) for name in look(one)]

    found: list[str] = yield Effect(
        lambda: [name for one in saver.list(config) for name in look(one)], alooked
    )
    return sorted(set(found))


def _forms(values: Iterable[str], lost: Lost) -> list[re.Pattern[str]]:
    """Find values, and texts at length that no message says that stays."""
    return [
        whole(value)
        for value in dict.fromkeys(values)
        if len(value) > _SHORT and not (len(value) >= LONG and value in lost.stays)
    ]


@dataclass
class _Search:
    """Looks at each value once: most stand in many checkpoints at one version."""

    lost: Lost
    seen: set[tuple[str, str, str]]

    def in_channels(self, one: CheckpointTuple, writes: bool) -> Iterator[str]:
        held, space = one.checkpoint["channel_versions"], namespace_of(one)
        for name, value in one.checkpoint["channel_values"].items():
            version = held.get(name)
            place = (space, name, version) if isinstance(version, str) else None
            if place is not None and place in self.seen:
                continue
            if place is not None:
                self.seen.add(place)
            if self.finds(value):
                yield name
        for _, name, value in (one.pending_writes or ()) if writes else ():
            if self.finds(value):
                yield name

    def finds(self, value: Any) -> bool:
        if isinstance(value, MemoryState):
            return False
        return mentions(value, self.lost.names) or any(
            self._tells(leaf) for leaf in _leaves(value) if leaf not in self.lost.stays
        )

    def _tells(self, leaf: str) -> bool:
        return leaf in self.lost.texts or any(
            text in leaf for text in self.lost.texts if LONG <= len(text) < len(leaf)
        )


def _leaves(value: Any) -> Iterator[str]:
    """All texts and other single things of which a value is made, but for messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseMessage | MemoryState | None):
        return
    else:
        parts = list(parts_of(value))
        if not parts and (isinstance(value, bytes) or not isinstance(value, Collection)):
            yield repr(value)
        for part in (*value, *parts) if isinstance(value, Mapping) else parts:
            yield from _leaves(part)


def _named(one: CheckpointTuple, name: str, own: str) -> str:
    space = namespace_of(one)
    return name if space == own else f"{space}/{name}"
