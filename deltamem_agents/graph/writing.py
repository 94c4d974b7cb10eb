"""New checkpoints and rewritten ones, made by hand: nothing runs, no node becomes due.

`graph.update_state` writes as a node and lets that node's edges decide what comes next. An operator
must change values only, so it makes the next checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    copy_checkpoint,
    empty_checkpoint,
)
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread

PENDING = ("__start__", "__pregel_tasks")
PENDING_PREFIX = "branch:"


@dataclass(frozen=True)
class NewCheckpoint:
    """A checkpoint that is ready to be put.

    Args:
        config: names its parent.
        checkpoint: the checkpoint, values included.
        metadata: of the checkpoint.
        versions: the channels that changed against the parent.
    """

    config: RunnableConfig
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    versions: dict[str, Any]


def is_pending(channel: str) -> bool:
    """Whether a channel's value makes a node due."""
    return channel in PENDING or channel.startswith(PENDING_PREFIX)


def _is_due(name: str, value: object) -> bool:
    """A node is due by a trigger of any value; tasks that were sent are a list, often empty."""
    return bool(value) if name == "__pregel_tasks" else True


def refuse_running(tip: CheckpointTuple | None) -> None:
    """Refuse a thread that waits in the middle of a run.

    Raises:
        ThreadHistoryError: nodes are due, as after an interrupt or a crash.
    """
    values = tip.checkpoint["channel_values"] if tip else {}
    due = [name for name, value in values.items() if is_pending(name) and _is_due(name, value)]
    if due:
        raise ThreadHistoryError(
            "an operator works on a thread that waits for its user",
            got=f"a run that waits at {', '.join(due)}",
            remedy="Finish the run (invoke(None, config) or Command(resume=...)), then try again.",
        )


def following(
    thread: Thread, tip: CheckpointTuple | None, changes: Mapping[str, Any]
) -> NewCheckpoint:
    """The checkpoint after `tip` with some channels changed.

    Args:
        thread: where; its saver numbers versions.
        tip: the newest checkpoint of the branch; None for a new thread.
        changes: channel -> new value; None values are stored as None.
    """
    checkpoint = copy_checkpoint(tip.checkpoint) if tip else empty_checkpoint()
    step = int(tip.metadata.get("step", -1)) + 1 if tip else -1
    held = checkpoint["channel_versions"]
    newest = max(held.values()) if held else None
    version = thread.saver.get_next_version(newest, None)
    # What older checkpoints would have to give is stored whole, as LangGraph does at a fork.
    values = {**checkpoint["channel_values"], **changes}
    chained = thread.chained(thread.place.namespace).keys()
    whole = {name: _DeltaSnapshot(values[name]) for name in chained & values.keys()}
    versions = dict.fromkeys((*changes, *whole), version)
    after: Checkpoint = {
        **checkpoint,
        "id": str(uuid6(clock_seq=step)),
        "ts": empty_checkpoint()["ts"],
        "channel_values": {**values, **whole},
        "channel_versions": {**held, **versions},
        "updated_channels": None,
    }
    metadata: CheckpointMetadata = {"source": "update", "step": step, "parents": {}}
    if tip and "parents" in tip.metadata:
        metadata["parents"] = tip.metadata["parents"]
    parent = tip.config if tip else replace(thread.place, checkpoint=None).config()
    return NewCheckpoint(parent, after, metadata, versions)


def put(saver: BaseCheckpointSaver[Any], new: NewCheckpoint) -> Steps[RunnableConfig]:
    """Store it; returns the config that names it."""
    arguments: Sequence[Any] = (new.config, new.checkpoint, new.metadata, new.versions)
    stored: RunnableConfig = yield Effect(
        lambda: saver.put(*arguments), lambda: saver.aput(*arguments)
    )
    return stored
