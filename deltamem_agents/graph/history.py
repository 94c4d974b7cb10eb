"""What a thread's past holds for a call whose memory does not fit its messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import DivergenceError
from deltamem_agents.graph.place import Place
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.saved import has_messages, memory_in, messages_in
from deltamem_agents.graph.settings import MemorySettings
from deltamem_agents.graph.state import MEMORY_KEY, START_KEY
from deltamem_agents.graph.steps import Steps
from deltamem_agents.runtime.messages import roll
from deltamem_agents.runtime.window import at_boundary, visible_digests


def fitting(
    reader: Reader,
    place: Place,
    state: Mapping[str, Any],
    messages: Sequence[AnyMessage],
    settings: MemorySettings,
) -> Steps[MemoryState | None]:
    """The memory from which the messages can be read on, outside of a call.

    Raises:
        DivergenceError: the memory does not fit the messages and `on_divergence` is "raise".
    """
    memory: MemoryState | None = state.get(MEMORY_KEY) or settings.start
    try:
        yield from refuse_changed(reader, place, memory, messages)
        if memory is not None:
            reader.fit(memory, messages)
    except DivergenceError:
        if settings.on_divergence == "raise":
            raise
        return (yield from nearest_agreeing(reader, place, state, messages, settings.start))
    return memory


def refuse_changed(
    reader: Reader, place: Place, memory: MemoryState | None, messages: Sequence[AnyMessage]
) -> Steps[None]:
    """Refuse a window of which every message was changed, which by digests alone looks lost.

    The checkpoint that stored the memory tells: a message that is still there, under its id and
    with another text, was changed.

    Raises:
        DivergenceError: it was.
    """
    visible = set(visible_digests(memory.ledger)) if memory is not None else set()
    if not visible or not messages or reader.holds_any(visible, messages):
        return
    told: set[str | None] = set()
    for saved in (yield from place.ancestors(memory, lambda one: memory_in(one) == memory)):
        read = messages_in(saved) if has_messages(saved) else []
        names = reader.digests(read)
        told |= {one.id for one, name in zip(read, names, strict=True) if name in visible}
    changed = [message.id for message in messages if message.id and message.id in told]
    if changed:
        raise DivergenceError(
            "messages in the window stay as they were read",
            got=f"other texts in the messages {changed}",
            remedy='Use on_divergence="rebuild", or fork from the checkpoint before the change.',
        )


def nearest_agreeing(
    reader: Reader,
    place: Place,
    state: Mapping[str, Any],
    messages: Sequence[AnyMessage],
    start: MemoryState | None,
) -> Steps[MemoryState | None]:
    """The memory of the nearest checkpoint that agrees with the messages, the rest read anew.

    One agrees whose window has lost a beginning that has left the thread since (trimmed or
    summarised): only `forget` unlearns. Where no ancestor agrees, all is read again from the memory
    that the thread began with; where the ancestors are gone and so are messages that the memory has
    read, from the window's boundary.

    Args:
        reader: reads as the call does.
        place: the checkpoint whose memory does not fit.
        state: the state there.
        messages: the messages as they are now.
        start: the memory that new threads begin with.

    Returns:
        A memory to go on from; None for an empty one.
    """
    before: MemoryState | None = state.get(START_KEY) or start
    refused = state.get(MEMORY_KEY)
    chain = yield from place.ancestors(refused)
    complete = bool(chain) and not chain[-1].parent_config
    for index, saved in enumerate(chain):
        memory = memory_in(saved)
        if memory is None or memory == refused:
            continue
        lost = reader.lost(memory, messages)
        if lost == 0:
            return memory
        before_it = memory_in(chain[index + 1]) if index + 1 < len(chain) else None
        landed = before_it != memory and (index + 1 < len(chain) or complete)
        if lost and landed and _has_left(reader, memory, lost, messages, chain[index::-1]):
            return memory
    if refused is not None and not complete and not _whole(reader, refused, messages):
        before = at_boundary(refused)
    return before


def _has_left(
    reader: Reader,
    memory: MemoryState,
    lost: int,
    messages: Sequence[AnyMessage],
    since: Sequence[CheckpointTuple],
) -> bool:
    """Whether the oldest messages that a memory holds visible have left the thread since.

    They were changed instead where one is still there under its id, where one had another text
    before it left, or where the messages now begin with one that did not stand behind them all the
    time.

    Args:
        reader: reads as the call does.
        memory: an ancestor's.
        lost: how many of its visible messages are not in the history.
        messages: the history as it is now.
        since: the checkpoint that the memory landed in, with the messages that it had read, and
            those after it, oldest first.
    """
    told = messages_in(since[0]) if has_messages(since[0]) else []
    read = [one for one in told if one.type != "system"][-len(memory.ledger.visible) :][:lost]
    gone = dict(zip((one.id for one in read), reader.digests(read), strict=True))
    stay = [one for one in messages if one.type != "system" and not to_dict(one).get("summary")]
    if None in gone or len(gone) < lost or not stay:
        return False
    if not gone.keys().isdisjoint(message.id for message in messages):
        return False
    histories = [messages_in(saved) for saved in since if has_messages(saved)]
    for history in histories:
        kept = [message for message in history if message.id in gone]
        if reader.digests(kept) != [gone[message.id] for message in kept]:
            return False
    places = [{one.id: place for place, one in enumerate(history)} for history in histories]
    both = [one for one in places if stay[0].id in one and not gone.keys().isdisjoint(one)]
    return bool(both) and all(
        one[stay[0].id] > max(one[name] for name in gone if name in one) for one in both
    )


def _whole(reader: Reader, memory: MemoryState, messages: Sequence[AnyMessage]) -> bool:
    """Whether the messages still begin with what left the window."""
    count = memory.ledger.evicted_count
    return roll("", reader.digests(messages)[:count]) == memory.ledger.evicted
