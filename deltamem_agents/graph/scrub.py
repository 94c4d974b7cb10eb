"""Takes forgotten messages out of the values of a checkpoint, wherever they stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple
from langgraph.types import Send

from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.saved import MESSAGES_KEY
from deltamem_agents.graph.state import MEMORY_KEY
from deltamem_agents.graph.writing import is_pending


def mentions(value: Any, gone: Collection[str]) -> bool:
    """Whether a forgotten message stands somewhere in a value."""
    if isinstance(value, BaseMessage):
        return value.id in gone
    if isinstance(value, Mapping):
        return any(mentions(part, gone) for part in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(mentions(part, gone) for part in value)
    if isinstance(value, Send):
        return mentions(value.arg, gone)
    if is_dataclass(value) and not isinstance(value, type | MemoryState):
        return any(mentions(getattr(value, part.name), gone) for part in fields(value))
    return False


def scrub(value: Any, gone: Collection[str]) -> Any:
    """The same value without forgotten messages in its lists and mappings."""
    if isinstance(value, list | tuple):
        kept = [scrub(part, gone) for part in value if not _is_gone(part, gone)]
        return tuple(kept) if type(value) is tuple else kept
    if isinstance(value, dict):
        return {key: scrub(part, gone) for key, part in value.items() if not _is_gone(part, gone)}
    return value


def _is_gone(value: Any, gone: Collection[str]) -> bool:
    return isinstance(value, BaseMessage) and value.id in gone


def rewritten(
    saved: CheckpointTuple,
    gone: Collection[str],
    memory: MemoryState | None,
    versions: dict[tuple[str, Any], Any],
    *,
    due_is_gone: bool,
    anew: Collection[str] = (),
) -> Checkpoint:
    """The checkpoint as if the forgotten turns had never been.

    Args:
        saved: as it is stored.
        gone: ids of the forgotten messages.
        memory: what its memory is now; None for none.
        versions: (channel, old version) -> new version; a channel that two checkpoints share at
            one version stays shared.
        due_is_gone: whether what waits to be run belongs to a forgotten turn; it is dropped.
        anew: channels that are stored in another way than before, whatever their value.
    """
    values = dict(saved.checkpoint["channel_values"])
    changed = set(anew)
    for name in list(values):
        if due_is_gone and is_pending(name):
            del values[name]
        elif name != MEMORY_KEY and mentions(values[name], gone):
            values[name] = scrub(values[name], gone)
            changed.add(name)
    if values.get(MEMORY_KEY) != memory:
        changed.add(MEMORY_KEY)
        values[MEMORY_KEY] = memory
        if memory is None:
            del values[MEMORY_KEY]
    held = saved.checkpoint["channel_versions"]
    renamed = {
        name: versions[name, version]
        for name, version in held.items()
        if name in changed and (name, version) in versions
    }
    seen = {
        node: {
            name: versions.get((name, at), at) if name in changed else at
            for name, at in channels.items()
        }
        for node, channels in saved.checkpoint["versions_seen"].items()
    }
    return {
        **saved.checkpoint,
        "channel_values": values,
        "channel_versions": {**held, **renamed},
        "versions_seen": seen,
    }


def texts_of(saved: CheckpointTuple, *, but: Collection[str] = ()) -> dict[str, str]:
    """Each channel's value as text, for looking whether something stands in it."""
    skipped = {MESSAGES_KEY, MEMORY_KEY, *but}
    values = saved.checkpoint["channel_values"]
    return {
        name: repr(value)
        for name, value in values.items()
        if name not in skipped and not is_pending(name) and not isinstance(value, MemoryState)
    }
