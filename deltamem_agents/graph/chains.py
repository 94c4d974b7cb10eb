"""DeltaChannels in a thread's past: made whole for forgetting, and put back.

LangGraph stores such a channel (as deepagents keeps its messages) whole at few checkpoints only.
Elsewhere its value is the parent's with the parent's writes reduced into it. Forgetting looks at
values, so each is worked out here. What is put back stays a change wherever the reducer comes to
the same value without what is forgotten, and is stored whole where it does not; so a long thread
does not become one copy of its conversation per checkpoint.

An agent that runs inside a tool is not part of the graph, and its reducer is unknown. The messages
that its writes name can still be seen, and writes of a forgotten turn can go as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple, PendingWrite
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.forms import Name
from deltamem_agents.graph.saved import Place, namespace_of, parent_of, place_of, ran_once
from deltamem_agents.graph.scrub import mentions, messages_within, scrub
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread

_COUNTERS = "counters_since_delta_snapshot"  # LangGraph's metadata: its DeltaChannels by name
_OWNED = "with SQLAlchemySaver its writes of that turn could go."
_InTurn = Callable[[CheckpointTuple], bool]


@dataclass
class Chains:
    """The DeltaChannels of a thread's checkpoints.

    Args:
        specs: namespace -> the DeltaChannels that its graph declares; none where it is unknown.
        namespace: the graph whose values must be known exactly.
        changes: per checkpoint and channel, whether it is stored as a change.
        drifting: channels whose messages have other ids at every reading.
    """

    specs: Callable[[str], Mapping[str, DeltaChannel[Any]]]
    namespace: str
    changes: dict[Place, dict[str, bool]] = field(default_factory=dict)
    drifting: set[str] = field(default_factory=set)

    def whole(
        self, thread: Thread, saved: Sequence[CheckpointTuple]
    ) -> Steps[list[CheckpointTuple]]:
        """The checkpoints, oldest first, with the values of all of their channels."""
        result: dict[Place, CheckpointTuple] = {}
        for one in saved:
            names = self._names(one)
            values = dict(one.checkpoint["channel_values"])
            changes = self.changes[place_of(one)] = {name: name not in values for name in names}
            before = result.get((namespace_of(one), parent_of(one) or ""))
            missing = [name for name, is_change in changes.items() if is_change]
            if missing and before is None and parent_of(one):
                values.update((yield from self._from_history(thread, one, missing)))
            for name in names:
                if name in values:
                    found = values[name]
                    values[name] = found.value if isinstance(found, _DeltaSnapshot) else found
                else:
                    held = before.checkpoint["channel_values"].get(name) if before else None
                    values[name] = self._after(one, name, held, _writes(before, name))
            checkpoint: Checkpoint = {**one.checkpoint, "channel_values": values}
            result[place_of(one)] = one._replace(checkpoint=checkpoint)
        return list(result.values())

    def _names(self, one: CheckpointTuple) -> list[str]:
        """Its DeltaChannels that were ever written."""
        space, versions = namespace_of(one), one.checkpoint["channel_versions"]
        names = set(self.specs(space))
        if not names and space != self.namespace:
            values = one.checkpoint["channel_values"]
            names = {name for name, value in values.items() if isinstance(value, _DeltaSnapshot)}
            counters: Any = one.metadata.get(_COUNTERS) or ()
            names |= set(counters)
        return sorted(names & versions.keys())

    def _from_history(
        self, thread: Thread, one: CheckpointTuple, names: list[str]
    ) -> Steps[dict[str, Any]]:
        """Values whose past no listing shows: the saver still keeps the writes."""
        saver, config = thread.saver, one.config
        found = yield Effect(
            lambda: saver.get_delta_channel_history(config=config, channels=names),
            lambda: saver.aget_delta_channel_history(config=config, channels=names),
        )
        values = {}
        for name in names:
            seed = found[name].get("seed")
            seed = seed.value if isinstance(seed, _DeltaSnapshot) else seed
            values[name] = self._after(one, name, seed, found[name]["writes"])
        return values

    def _after(
        self, one: CheckpointTuple, name: str, held: Any, writes: Sequence[PendingWrite]
    ) -> Any:
        spec = self.specs(namespace_of(one)).get(name)
        if spec is not None:
            value = reduced(spec, held, writes)
            if _ids_drift(spec, held, writes, value):
                self.drifting.add(name)
            return value
        before = held if isinstance(held, list) else messages_within(held)
        return [*before, *messages_within([value for _, _, value in writes])]

    def plan(
        self,
        saved: Sequence[CheckpointTuple],
        gone: Collection[Name],
        turn: _InTurn,
        *,
        owned: bool,
    ) -> Links:
        """What stays a change once the forgotten messages are gone, and which writes it needs.

        Args:
            saved: the checkpoints with whole values.
            gone: names of the forgotten messages.
            turn: whether an agent inside the graph came to a checkpoint in a forgotten turn.
            owned: whether writes can be deleted from the saver.

        Raises:
            ThreadHistoryError: an agent of unknown reducer would keep a forgotten message.
        """
        by_place = {place_of(one): one for one in saved}
        links = Links()
        for one in saved:
            before = by_place.get((namespace_of(one), parent_of(one) or ""))
            for name, is_change in self.changes[place_of(one)].items():
                if not is_change:
                    links.store(one, name, anew=False)
                elif before is None and parent_of(one):
                    self._plan_pruned(links, one, name, gone, turn)
                elif before is not None and self._agrees(before, one, name, gone, turn):
                    links.keep(before, name)
                elif before is not None and name in self.specs(namespace_of(one)):
                    links.store(one, name, anew=True)
                elif before is not None and not _can_go(before, one, name, gone, turn, owned=owned):
                    _refuse(one, name, None if owned else _OWNED)
        return links

    def _plan_pruned(
        self,
        links: Links,
        one: CheckpointTuple,
        name: str,
        gone: Collection[Name],
        turn: _InTurn,
    ) -> None:
        """A change to what no listing shows: only a known reducer tells its value.

        What one call alone had is not read again, so all of it is cut from its hidden past;
        elsewhere the saver's own chain is the value.
        """
        values, known = one.checkpoint["channel_values"], name in self.specs(namespace_of(one))
        if known or (ran_once(one) and (turn(one) or mentions(values, gone))):
            links.store(one, name, anew=True)
        elif mentions(values[name], gone):
            _refuse(one, name, "forget before the thread is pruned.")

    def _agrees(
        self,
        before: CheckpointTuple,
        one: CheckpointTuple,
        name: str,
        gone: Collection[Name],
        turn: _InTurn,
    ) -> bool:
        """Whether the parent's writes still lead from its value to this one."""
        writes = _writes(before, name)
        if mentions([value for _, _, value in writes], gone):
            return False
        spec = self.specs(namespace_of(one)).get(name)
        if spec is None:
            return not turn(one)
        held, comes = (each.checkpoint["channel_values"].get(name) for each in (before, one))
        if not mentions(held, gone) and not mentions(comes, gone):
            return True
        try:
            return bool(reduced(spec, scrub(held, gone), writes) == scrub(comes, gone))
        except Exception:  # a reducer of the user's, or values such as arrays: then it is whole
            return False


@dataclass
class Links:
    """How DeltaChannels are put back.

    Args:
        stored: per checkpoint, the channels that are stored whole.
        new: those of them that were changes before.
        kept: per checkpoint, the channels whose writes a later checkpoint is read from.
    """

    stored: dict[Place, set[str]] = field(default_factory=dict)
    new: dict[Place, set[str]] = field(default_factory=dict)
    kept: dict[Place, set[str]] = field(default_factory=dict)

    def store(self, one: CheckpointTuple, name: str, *, anew: bool) -> None:
        """Store a channel whole."""
        self.stored.setdefault(place_of(one), set()).add(name)
        if anew:
            self.new.setdefault(place_of(one), set()).add(name)

    def keep(self, one: CheckpointTuple, name: str) -> None:
        """Keep the writes to a channel."""
        self.kept.setdefault(place_of(one), set()).add(name)

    def emptied(self, place: Place) -> dict[str, Any]:
        """The values of a checkpoint that is never read again: nothing, nor what is hidden."""
        return {name: _DeltaSnapshot([]) for name in sorted(self.stored.get(place, ()))}

    def folded(self, place: Place, checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
        """A checkpoint of whole values as it is stored.

        Args:
            place: where it is.
            checkpoint: with whole values.
            names: its DeltaChannels.
        """
        stored = self.stored.get(place, set())
        values = {
            name: _DeltaSnapshot(value) if name in stored else value
            for name, value in checkpoint["channel_values"].items()
            if name not in names or name in stored
        }
        return {**checkpoint, "channel_values": values}


def reduced(spec: DeltaChannel[Any], held: Any, writes: Sequence[PendingWrite]) -> Any:
    """A DeltaChannel's value after some writes; `held` is None for none."""
    channel = spec.from_checkpoint(spec.typ() if held is None else copy(held))
    channel.replay_writes(writes)
    return channel.get()


def _ids_drift(
    spec: DeltaChannel[Any], held: Any, writes: Sequence[PendingWrite], value: Any
) -> bool:
    """Whether the reducer names messages that were written without an id anew at every reading."""
    written = [value for _, _, value in writes]
    parts = [part for each in written for part in (each if isinstance(each, list) else [each])]
    if all(isinstance(part, BaseMessage) and part.id for part in parts):
        return False
    told = {message.id for message in messages_within([held, written])}
    made = {message.id for message in messages_within(value)} - told
    again = {message.id for message in messages_within(reduced(spec, held, writes))} - told
    return made != again


def _writes(one: CheckpointTuple | None, name: str) -> list[PendingWrite]:
    return [write for write in (one.pending_writes or () if one else ()) if write[1] == name]


def _can_go(
    before: CheckpointTuple,
    one: CheckpointTuple,
    name: str,
    gone: Collection[Name],
    turn: _InTurn,
    *,
    owned: bool,
) -> bool:
    """Whether the writes between two checkpoints of an unknown reducer can just go."""
    told = messages_within([value for _, _, value in _writes(before, name)])
    return ran_once(one) or (owned and (turn(one) or all(message.id in gone for message in told)))


def _refuse(one: CheckpointTuple, name: str, otherwise: str | None) -> None:
    raise ThreadHistoryError(
        "what is forgotten can be taken out of every agent of the thread",
        got=f"the DeltaChannel '{name}' of the agent {namespace_of(one)!r}, which is no node",
        remedy="Make the agent a node of the graph, keep its messages with add_messages, or let "
        "it run without checkpointer=True" + (f"; {otherwise}" if otherwise else "."),
    )
