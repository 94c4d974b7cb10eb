"""A thread's checkpoints as forgetting sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from langchain_core.messages import AnyMessage, BaseMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.chains import Chains
from deltamem_agents.graph.saved import (
    has_messages,
    id_of,
    messages_in,
    namespace_of,
    parent_of,
)
from deltamem_agents.graph.scrub import mentions
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread
from deltamem_agents.graph.turns import Predicate, exchanges, selected_turns

FORGOTTEN_KEY = "deltamem_forgotten"
"""In a checkpoint's metadata: which messages were forgotten, by the hash of their ids."""


def hashed(message_id: str) -> str:
    """A message's id as the metadata holds it."""
    return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass
class Past:
    """The thread's checkpoints, and what is to be forgotten in them.

    Args:
        saved: all checkpoints of all namespaces, oldest first, their values whole.
        namespace: the one whose memory is rebuilt.
        chains: which of the values are stored as changes.
        gone: ids of the forgotten messages.
        lost: the forgotten messages by id.
        inside: ids of what agents inside the graph were told, or said, in a forgotten turn.
        mixed: first messages of turns that stay, of runs in which others go, where nothing tells
            in which of them an agent inside was at work.
    """

    saved: list[CheckpointTuple]
    namespace: str
    chains: Chains
    gone: set[str] = field(default_factory=set)
    lost: dict[str, AnyMessage] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    def own(self) -> list[CheckpointTuple]:
        """The checkpoints of the graph itself."""
        return [one for one in self.saved if namespace_of(one) == self.namespace]

    @cached_property
    def nested(self) -> frozenset[str]:
        """Other namespaces that held a forgotten message; asked for when all are chosen."""
        return frozenset(
            namespace_of(one)
            for one in self.saved
            if namespace_of(one) != self.namespace
            and mentions(one.checkpoint["channel_values"], self.gone)
        )

    @cached_property
    def during(self) -> frozenset[str]:
        """Ids of the graph's checkpoints within a forgotten turn; asked for when all are chosen."""
        newest = {id_of(one): messages_in(one)[-1:] for one in self.own()}
        return frozenset(name for name, last in newest.items() if last and last[0].id in self.gone)

    @cached_property
    def exchanged(self) -> frozenset[str]:
        """Ids of the graph's checkpoints while a forgotten message was answered, or others with it.

        Asked for when all are chosen.
        """
        newest = {id_of(one): exchanges(messages_in(one))[-1:] for one in self.own()}
        return frozenset(name for name, last in newest.items() if last and self._goes(last[0]))

    @cached_property
    def unstored(self) -> dict[str, bool | None]:
        """The graph's checkpoints that agents inside name as theirs and that were never stored.

        With `durability="exit"` only the end of a run is. Ids sort by time, so a run ends at the
        first stored checkpoint after them. Each is mapped to whether its run answered a forgotten
        message; None where the past does not tell. Asked for when all are chosen.
        """
        own = {id_of(one): one for one in self.own()}
        named = {self._above(one) for one in self.saved if namespace_of(one) != self.namespace}
        return {
            name: self._in_forgotten_run(name, own) for name in named if name and name not in own
        }

    @property
    def undecided(self) -> bool:
        """Whether an agent inside the graph may hold what is forgotten, and nothing tells."""
        return None in self.unstored.values()

    def _above(self, saved: CheckpointTuple) -> str | None:
        """The id of the graph's checkpoint during which an agent inside came to one of its own."""
        name: str | None = (saved.metadata.get("parents") or {}).get(self.namespace)
        return name

    def _in_forgotten_run(self, name: str, own: dict[str, CheckpointTuple]) -> bool | None:
        end = next((one for key, one in own.items() if key > name), None)
        if end is None:
            return None
        begin, held = parent_of(end), messages_in(end)
        if begin is not None and not (begin in own and begin < name):  # pruned, or another run's
            return None if any(message.id in self.gone for message in held) else False
        before = {message.id for message in messages_in(own[begin])} if begin else set()
        new = [message for message in held if message.id not in before]
        answered = exchanges(new) or exchanges(held)[-1:]
        stays = [one for one in answered if not self._goes(one)]
        if stays and len(stays) < len(answered):
            self.mixed += [one[0].id for one in stays if one[0].id and one[0].id not in self.mixed]
        return len(stays) < len(answered)

    def _goes(self, messages: Sequence[AnyMessage]) -> bool:
        return any(message.id in self.gone for message in messages)

    def derived(self, saved: CheckpointTuple) -> bool:
        """Whether an agent inside the graph came to a checkpoint while a forgotten turn ran."""
        if namespace_of(saved) == self.namespace:
            return False
        above = self._above(saved)
        return above in self.exchanged or bool(above and self.unstored.get(above))

    def in_turn(self, saved: CheckpointTuple) -> bool:
        """Whether a checkpoint, of the graph or inside it, is of a forgotten turn."""
        own = namespace_of(saved) == self.namespace
        return id_of(saved) in self.during if own else self.derived(saved)

    def follow(self) -> None:
        """Add what agents inside the graph were told, and said, while a forgotten turn ran."""
        known: dict[str, set[str]] = {}
        for one in self.saved:
            if namespace_of(one) == self.namespace or not has_messages(one):
                continue
            seen = known.setdefault(namespace_of(one), set())
            new = {message.id for message in messages_in(one) if message.id} - seen
            if self.derived(one):
                self.inside += sorted(new - self.gone)
                self.gone |= new
            seen |= new

    def forgotten(self, message_id: str) -> bool:
        """Whether an earlier call has forgotten this message."""
        name = hashed(message_id)
        metadata: list[Any] = [one.metadata for one in self.own()]
        return any(name in each.get(FORGOTTEN_KEY, ()) for each in metadata)

    def tips(self) -> list[CheckpointTuple]:
        """The newest checkpoint of each branch."""
        parents = {parent_of(one) for one in self.own()}
        return [one for one in self.own() if id_of(one) not in parents]

    def choose(self, chosen: Collection[str] | Predicate) -> bool:
        """Add the turns that hold a chosen message; whether there were new ones."""
        before = len(self.gone)
        for one in self.own():
            for message in selected_turns(messages_in(one), chosen):
                if message.id and message.id not in self.gone:
                    self.gone.add(message.id)
                    self.lost[message.id] = message
        return len(self.gone) > before


class _Shared:
    """Makes checkpoints share what is equal in them.

    A conversation stands in each of its checkpoints again. Decoded one by one they would need
    memory that grows with its square; a message is kept once, and so is a value that a channel
    kept from one checkpoint to the next (one version, one value). Only a version that is a string
    names one value: those of LangGraph's savers end in chance, whereas savers that count in whole
    numbers give two branches the same one.
    """

    def __init__(self) -> None:
        self._messages: dict[str, BaseMessage] = {}
        self._values: dict[tuple[str, str, str], Any] = {}

    def of(self, saved: CheckpointTuple) -> CheckpointTuple:
        """The checkpoint with values that others hold too."""
        space, held = namespace_of(saved), saved.checkpoint["channel_versions"]
        values = {}
        for name, value in saved.checkpoint["channel_values"].items():
            version = held.get(name)
            values[name] = self._value(value)
            if isinstance(version, str):
                values[name] = self._values.setdefault((space, name, version), values[name])
        return saved._replace(checkpoint={**saved.checkpoint, "channel_values": values})

    def _value(self, value: Any) -> Any:
        if isinstance(value, _DeltaSnapshot):
            return _DeltaSnapshot(self._value(value.value))
        if not isinstance(value, list):
            return value
        return [self._message(part) if isinstance(part, BaseMessage) else part for part in value]

    def _message(self, message: BaseMessage) -> BaseMessage:
        if not message.id:
            return message
        known = self._messages.setdefault(message.id, message)
        return known if known == message else message


def load_past(thread: Thread) -> Steps[Past]:
    """Read all checkpoints of all namespaces, oldest first.

    Raises:
        ThreadHistoryError: the thread has none.
    """
    saver, config = thread.saver, {"configurable": {"thread_id": thread.place.thread}}

    shared = _Shared()

    async def alisted() -> list[CheckpointTuple]:
        return [shared.of(one) async for one in saver.alist(config)]  # type: ignore[arg-type]

    found: list[CheckpointTuple] = yield Effect(
        lambda: [shared.of(one) for one in saver.list(config)],  # type: ignore[arg-type]
        alisted,
    )
    if not found:
        raise ThreadHistoryError(
            "a thread has checkpoints",
            got=thread.place.thread,
            remedy="See `deltamem inspect DATABASE` for the threads there are.",
        )
    found.sort(key=lambda one: (namespace_of(one), id_of(one)))
    chains = Chains(thread.chained, thread.place.namespace)
    return Past((yield from chains.whole(thread, found)), thread.place.namespace, chains)
