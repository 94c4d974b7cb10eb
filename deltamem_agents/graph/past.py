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
    place_of,
    ran_once,
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
        return None in self.unstored.values() or self._pruned_inside()

    def _pruned_inside(self) -> bool:
        """Whether an agent inside may have been told it at a checkpoint that was pruned."""
        own, there = self.own(), {place_of(one) for one in self.saved}
        first = next((one for one in own if self._goes(messages_in(one))), None)
        if first is None:
            return False
        above = parent_of(first)
        seen = above is None or (self.namespace, above) in there
        return any(
            (namespace_of(one), parent_of(one)) not in there
            and not (seen and id_of(one) < id_of(first))
            for one in self.saved
            if namespace_of(one) != self.namespace and parent_of(one) and not ran_once(one)
        )

    def _above(self, saved: CheckpointTuple) -> str | None:
        """The id of the graph's checkpoint during which an agent inside came to one of its own."""
        name: str | None = (saved.metadata.get("parents") or {}).get(self.namespace)
        return name

    def _in_forgotten_run(self, name: str, own: dict[str, CheckpointTuple]) -> bool | None:
        answered, end = self._run_of(name, own)
        if answered is None:
            return None if end is None or self._goes(messages_in(end)) else False
        stays = [one for one in answered if not self._goes(one)]
        if stays and len(stays) < len(answered):
            self.mixed += [one[0].id for one in stays if one[0].id and one[0].id not in self.mixed]
        return len(stays) < len(answered)

    def _run_of(
        self, name: str, own: dict[str, CheckpointTuple]
    ) -> tuple[list[list[AnyMessage]] | None, CheckpointTuple | None]:
        """What a run answered that came by a checkpoint not stored, if known; and its end."""
        end = next((one for key, one in own.items() if key > name), None)
        if end is None:
            return None, None
        begin, held = parent_of(end), messages_in(end)
        if begin is not None and not (begin in own and begin < name):  # pruned, or another run's
            return None, end
        before = {message.id for message in messages_in(own[begin])} if begin else set()
        new = [message for message in held if message.id not in before]
        return exchanges(new) or exchanges(held)[-1:], end

    def answered_during(self, saved: CheckpointTuple) -> list[list[AnyMessage]]:
        """What was being answered as an agent inside came to a checkpoint; none where unknown.

        Several where a run's steps were not stored: any of them may be meant.
        """
        own, above = {id_of(one): one for one in self.own()}, self._above(saved)
        if above in own:
            return exchanges(messages_in(own[above]))[-1:]
        return (above and self._run_of(above, own)[0]) or []

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
        """Add what agents inside the graph were told, and said, while a forgotten turn ran.

        Messages that are the graph's own too, as where it shares them, go by being chosen only.
        """
        own = {message.id for one in self.own() for message in messages_in(one)}
        known: dict[str, set[str]] = {}
        for one in self.saved:
            if namespace_of(one) == self.namespace or not has_messages(one):
                continue
            seen = known.setdefault(namespace_of(one), set())
            new = {message.id for message in messages_in(one) if message.id} - seen - own
            if self.derived(one):
                self.inside += sorted(new - self.gone)
                self.gone |= new
            seen |= new

    def forgotten(self, message_id: str) -> bool:
        """Whether an earlier call has forgotten this message."""
        name = hashed(message_id)
        metadata: list[Any] = [one.metadata for one in self.own()]
        return any(name in each.get(FORGOTTEN_KEY, ()) for each in metadata)

    def tips(self, *, inside: bool = False) -> list[CheckpointTuple]:
        """The newest checkpoint of each branch: of the graph, or of all agents inside it."""
        parents = {(namespace_of(one), parent_of(one)) for one in self.saved}
        ends = [one for one in self.saved if place_of(one) not in parents]
        return [one for one in ends if (namespace_of(one) != self.namespace) == inside]

    def choose(self, chosen: Collection[str] | Predicate) -> bool:
        """Add the turns that hold a chosen message; whether there were new ones.

        Raises:
            ThreadHistoryError: a message of such a turn has no id.
        """
        before = len(self.lost)
        for one in self.own():
            for message in selected_turns(messages_in(one), chosen):
                if not message.id:
                    _refuse_unnamed(message)
                elif message.id not in self.lost:
                    self.lost[message.id] = message
        self.gone |= self.lost.keys()
        self.mixed.clear()
        for name in ("nested", "during", "exchanged", "unstored"):
            self.__dict__.pop(name, None)  # they tell of what is chosen
        return len(self.lost) > before


def _refuse_unnamed(message: AnyMessage) -> None:
    raise ThreadHistoryError(
        "the messages of a forgotten turn have ids",
        got=f"a {message.type} message without one",
        remedy="Keep messages with the reducer add_messages, which gives each an id.",
    )


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
