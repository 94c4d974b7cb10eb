"""Takes forgotten messages out of the values of a checkpoint, wherever they stand."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple
from langgraph.types import Send
from pydantic import BaseModel

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.forms import Name, name_of
from deltamem_agents.graph.saved import namespace_of
from deltamem_agents.graph.state import MEMORY_KEY
from deltamem_agents.graph.writing import is_pending

_ROWS = (list, tuple, set, frozenset, deque)


def parts_of(value: Any) -> Iterable[Any]:
    """What a value is made of, as far as messages can stand in it; a message is one piece."""
    if isinstance(value, BaseMessage):
        return ()
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, _ROWS):
        return value
    return [getattr(value, name) for name in _attributes(value) if hasattr(value, name)]


def mentions(value: Any, gone: Collection[Name]) -> bool:
    """Whether a forgotten message stands somewhere in a value, made or as it was told."""
    if _is_gone(value, gone):
        return True
    return any(mentions(part, gone) for part in parts_of(value))


def messages_within(value: Any) -> list[BaseMessage]:
    """All messages that stand somewhere in a value."""
    if isinstance(value, BaseMessage):
        return [value]
    return [message for part in parts_of(value) for message in messages_within(part)]


def scrub(value: Any, gone: Collection[Name]) -> Any:
    """The same value without forgotten messages, wherever `mentions` finds them.

    In a list, a set or a mapping nothing stays in their place; None does where a place cannot go,
    as in a dataclass. A task that was sent such a message alone goes too. What has none is given
    back as it is.
    """
    if _is_gone(value, gone):
        return None
    if not mentions(value, gone):
        return value
    if isinstance(value, MutableMapping):
        kept = {key: scrub(part, gone) for key, part in value.items() if not _is_gone(part, gone)}
        new = copy(value)
        new.clear()
        new.update(kept)
        return new
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(scrub(part, gone) for part in value)
    if isinstance(value, _ROWS):
        parts = [scrub(part, gone) for part in value if not _is_gone(part, gone)]
        return deque(parts, value.maxlen) if isinstance(value, deque) else type(value)(parts)
    names = _attributes(value)
    new = copy(value) if names else value
    for name in names:
        if hasattr(value, name):
            object.__setattr__(new, name, scrub(getattr(value, name), gone))
    return new


def _attributes(value: Any) -> Collection[str]:
    """The names under which an object holds its parts."""
    if isinstance(value, type | MemoryState):
        return ()
    if isinstance(value, Send):
        return ("arg",)
    if isinstance(value, BaseModel):
        return (*type(value).model_fields, *(value.model_extra or ()))
    return [part.name for part in fields(value)] if is_dataclass(value) else ()


def _is_gone(value: Any, gone: Collection[Name]) -> bool:
    told = name_of(value.arg if isinstance(value, Send) else value)
    return told is not None and told in gone


def rewritten(
    saved: CheckpointTuple,
    gone: Collection[Name],
    memory: MemoryState | None,
    versions: dict[tuple[str, Any], Any],
    *,
    due_is_gone: bool,
    anew: Collection[str] = (),
) -> Checkpoint:
    """The checkpoint as if the forgotten turns had never been.

    Args:
        saved: as it is stored.
        gone: names of the forgotten messages.
        memory: what its memory is now; None for none.
        versions: (channel, old version) -> new version; a channel that two checkpoints share at
            one version stays shared.
        due_is_gone: whether what waits to be run belongs to a forgotten turn; it is dropped.
        anew: channels that are stored in another way than before, whatever their value.

    Raises:
        ThreadHistoryError: a forgotten message stands in a value that cannot be rebuilt.
    """
    values = dict(saved.checkpoint["channel_values"])
    changed = set(anew)
    for name in list(values):
        if due_is_gone and is_pending(name):
            del values[name]
        elif name != MEMORY_KEY and mentions(values[name], gone):
            changed.add(name)
            scrubbed = scrub(values.pop(name), gone)
            if mentions(scrubbed, gone):
                _refuse(saved, name)
            if scrubbed is not None:
                values[name] = scrubbed
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


def _refuse(saved: CheckpointTuple, name: str) -> None:
    raise ThreadHistoryError(
        "a forgotten message can be taken out of every value that holds it",
        got=f"the channel '{name}' of {namespace_of(saved) or 'the graph'!r} with a "
        f"{type(saved.checkpoint['channel_values'][name]).__name__}",
        remedy="Keep messages in lists, mappings, sets or dataclasses.",
    )
