"""What the operators on a thread give back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph.turns import Repeat


@dataclass(frozen=True)
class Ingested:
    """What `ingest` or `revise` read.

    Args:
        config: names the new checkpoint.
        memory: the memory after it.
        message_ids: the messages that the thread holds now; `forget` takes them.
    """

    config: dict[str, Any]
    memory: MemoryState
    message_ids: tuple[str, ...]


@dataclass(frozen=True)
class Forgotten:
    """What `forget` did.

    Args:
        message_ids: all messages that are gone, whole turns, oldest first.
        memory: the memory of the newest checkpoint now; None if nothing is left to remember.
        repeats: later messages that say a forgotten value or text again, and summaries written
            from it, also those of agents inside the graph; still there.
        channels: other channels of the newest checkpoint in which a forgotten value stands, or of
            any checkpoint in which the text of a forgotten message does; they are the graph's own
            and were left as they are. Those of agents inside the graph are named
            `namespace/channel`, a run's metadata `metadata.key`.
        inside: ids of messages of agents inside the graph that went along: what they were told and
            said while a forgotten message was being answered.
        checkpoints: how many checkpoints were rewritten.
        facts: ids of the facts that are gone.
        purged: whether the database holds the old content no more: blobs and writes are deleted,
            and on SQLite the file's bytes are overwritten. False where `channels` names any, or
            `repeats` a summary or a message that quotes a forgotten one, while another connection
            to the SQLite file, or to that of an exact store elsewhere, still reads an older state
            (call the saver's `purge()` later), with savers other than `SQLAlchemySaver`, whose old
            rows this package cannot delete, and where an agent inside the graph was told something
            in a run whose checkpoints are missing, so that nothing tells whether it was in a
            forgotten turn. With `repeats="forget"` also where `repeats` names any that nothing
            tells the turn of.
    """

    message_ids: tuple[str, ...]
    memory: MemoryState | None
    repeats: tuple[Repeat, ...] = ()
    channels: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    checkpoints: int = 0
    facts: tuple[str, ...] = ()
    purged: bool = False


@dataclass(frozen=True)
class Retrieved:
    """What `retrieve` found; nothing of it was stored.

    Args:
        answer: the model's answer from the memory, or the store's verbatim one.
        route: who answered: "neural", "exact", "both" or "abstain".
        citations: sources of exact values, as in `response_metadata["citations"]`.
        memory: the memory that was read.
        read: what that memory is: `MemoryState.describe()`.
        metadata: the reply's `response_metadata`.
    """

    answer: str
    route: str
    citations: tuple[dict[str, Any], ...]
    memory: MemoryState
    read: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
