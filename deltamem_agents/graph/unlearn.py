"""Forgetting: whole turns out of the thread, its past, its memory and the exact store.

1. Read the thread's checkpoints, oldest first, and name the turns that go.
2. Follow each branch and rebuild, at every checkpoint whose memory had read them, the memory from
   the messages that stay. The nearest untouched checkpoint is where reading begins again.
3. Delete facts in other databases; then, in one transaction, rewrite the checkpoints and delete
   the facts beside them; then empty SQLite's log, and drop what the process still holds.

A call that fails, or a process that dies, anywhere in between is made good by the same call again:
until the transaction the messages are all there, and after it the past says what was forgotten.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from deltamem_agents.errors import ConfigError, ConflictError, ThreadHistoryError
from deltamem_agents.graph.facts import facts_of
from deltamem_agents.graph.past import Past, load_past
from deltamem_agents.graph.remains import channels_with, lost_in, remaining
from deltamem_agents.graph.repeated import Repeats, newest, quoting, widen
from deltamem_agents.graph.reports import Forgotten
from deltamem_agents.graph.rereading import Rereading
from deltamem_agents.graph.rewriting import finish, rewrite_past, stamp_of
from deltamem_agents.graph.saved import id_of, memory_in, messages_in
from deltamem_agents.graph.steps import Steps
from deltamem_agents.graph.thread import Thread
from deltamem_agents.graph.turns import Predicate

Undecided = Literal["raise", "forget"]
_TRIES = 5  # where others write to the thread at the same time


def forget(
    thread: Thread,
    chosen: Collection[str] | Predicate,
    values: tuple[str, ...],
    mode: Repeats,
    undecided: Undecided = "raise",
) -> Steps[Forgotten]:
    """See `ThreadMemory.forget`."""
    if mode not in ("report", "forget"):
        raise ConfigError(
            "repeats is 'report' or 'forget'", got=mode, remedy="Leave it out for 'report'."
        )
    if undecided not in ("raise", "forget"):
        raise ConfigError(
            "undecided is 'raise' or 'forget'", got=undecided, remedy="Leave it out for 'raise'."
        )
    elsewhere: list[str] = []
    for left in reversed(range(_TRIES)):
        try:
            return (yield from _attempt(thread, chosen, values, mode, undecided, elsewhere))
        except ConflictError:  # others wrote meanwhile: what they wrote is read too
            if not left:
                raise
    raise AssertionError("unreachable")


def _attempt(
    thread: Thread,
    chosen: Collection[str] | Predicate,
    values: tuple[str, ...],
    mode: Repeats,
    undecided: Undecided,
    elsewhere: list[str],
) -> Steps[Forgotten]:
    """Forget, or raise `ConflictError` where the thread changes in the meantime.

    `elsewhere` collects the facts of other databases, which are gone even so.
    """
    read = yield from stamp_of(thread)
    past = yield from load_past(thread)
    again = _choose(past, chosen)
    if not past.own():
        return Forgotten((), None)
    tip = past.own()[-1]
    reader, settings = yield from thread.reading(tip)
    facts = yield from facts_of(thread, settings.router)
    if not past.gone:
        ids, purged = yield from finish(thread, facts, again)
        reader.model.engine.live.clear()
        return Forgotten((), memory_in(tip), facts=(*elsewhere, *ids), purged=purged)
    told, found = yield from widen(past, facts, values, mode)
    if past.mixed and undecided == "raise":
        _refuse_mixed(past)
    memories = yield from Rereading(past, reader).memories(alike=undecided == "raise")
    apart, facts_purged = yield from facts.forget_apart(past.gone | again)
    elsewhere += apart
    lost = lost_in(past)
    count, beside, purged = yield from rewrite_past(thread, past, memories, facts, read, lost.names)
    reader.model.engine.live.clear()
    channels = channels_with(newest(past, tip), past.namespace, lost, told)
    channels += yield from remaining(thread, lost, told)
    unsaid = not channels and not quoting(found, past) and not (mode == "forget" and found)
    order = [message.id for one in past.own() for message in messages_in(one)]
    return Forgotten(
        message_ids=tuple(name for name in dict.fromkeys(order) if name in past.gone),
        memory=memories.get(id_of(tip)),
        repeats=tuple(found),
        channels=tuple(dict.fromkeys(channels)),
        inside=tuple(past.inside),
        checkpoints=count,
        facts=(*elsewhere, *beside),
        purged=purged and facts_purged and unsaid,
    )


def _choose(past: Past, chosen: Collection[str] | Predicate) -> set[str]:
    """Choose what goes; the ids that an earlier call has forgotten already.

    Raises:
        ThreadHistoryError: a message is not there, and was not forgotten.
    """
    past.choose(chosen)
    if callable(chosen):
        return set()
    absent = {name for name in chosen if name not in past.gone}
    unknown = [name for name in absent if not past.forgotten(name)]
    if unknown and past.chains.drifting:
        raise ThreadHistoryError(
            "messages that are named by their ids keep them",
            got=f"the DeltaChannel {', '.join(past.chains.drifting)}, whose reducer makes new ids "
            "at every reading for messages that were told without",
            remedy="Pass a function instead of ids; or keep the messages with LangGraph's reducer, "
            "or tell messages that have ids.",
        )
    if unknown:
        raise ThreadHistoryError(
            "what is forgotten is a message of the thread",
            got=unknown,
            remedy="Take ids from graph.get_state(config).values['messages'], or pass a function. "
            "If a call before has forgotten them and checkpoints were pruned since, all that can "
            "be left to do is the saver's purge().",
        )
    return absent


def _refuse_mixed(past: Past) -> None:
    raise ThreadHistoryError(
        "what agents inside the graph were told is forgotten with the turn in which they were",
        got="a run with durability='exit' and several turns, of which only some go; also in it: "
        + ", ".join(past.mixed),
        remedy="Forget those turns too, or pass undecided='forget': what the agents inside were "
        "told and said in the whole run then goes.",
    )
