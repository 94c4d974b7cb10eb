"""Where in a graph's past a call or an operator stands: saver, thread, namespace, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.saved import memory_in
from deltamem_agents.graph.steps import Effect, Steps

_SAVER_KEY = "__pregel_checkpointer"  # LangGraph hands the saver to subgraphs under this key


@dataclass(frozen=True)
class Place:
    """One checkpoint of one thread.

    Args:
        saver: the graph's checkpointer; None where the graph has none.
        thread: the thread's id; None where there is none.
        namespace: the subgraph's namespace; "" for the root graph.
        checkpoint: the checkpoint's id; None means the latest.
    """

    saver: BaseCheckpointSaver[Any] | None
    thread: str | None
    namespace: str = ""
    checkpoint: str | None = None

    def config(self, checkpoint: str | None = None) -> RunnableConfig:
        """The configuration that names this place, or another checkpoint of the same thread."""
        values: dict[str, Any] = {"thread_id": self.thread, "checkpoint_ns": self.namespace}
        if name := checkpoint or self.checkpoint:
            values["checkpoint_id"] = name
        return {"configurable": values}

    def read(self, checkpoint: str | None = None) -> Steps[CheckpointTuple | None]:
        """Fetch a checkpoint; None where it is not stored."""
        saver, config = self.saver, self.config(checkpoint)
        if saver is None or self.thread is None:
            return None
        found: CheckpointTuple | None = yield Effect(
            lambda: saver.get_tuple(config), lambda: saver.aget_tuple(config)
        )
        return found

    def ancestors(
        self,
        memory: MemoryState | None = None,
        wanted: Callable[[CheckpointTuple], bool] = lambda saved: True,
    ) -> Steps[list[CheckpointTuple]]:
        """The stored checkpoints from this place back to the thread's first, newest first.

        LangGraph stores a running step's checkpoint beside the run, or, with `durability="exit"`,
        after it. Where it is not there yet, the chain begins at the newest checkpoint that holds
        the memory from which the step goes on.

        Args:
            memory: that memory; None for none.
            wanted: the chain ends before the first of which this is false.
        """
        chain: list[CheckpointTuple] = []
        found = yield from self.read()
        if found is None and memory is not None and self.checkpoint:
            found = yield from self._holding(memory)
        while found is not None and wanted(found):
            chain.append(found)
            parent = (found.parent_config or {}).get("configurable", {}).get("checkpoint_id")
            found = (yield from self.read(parent)) if parent else None
        return chain

    def _holding(self, memory: MemoryState) -> Steps[CheckpointTuple | None]:
        """The newest checkpoint of the thread with this memory."""
        saver, config = self.saver, replace(self, checkpoint=None).config()
        if saver is None or self.thread is None:
            return None

        async def afound() -> CheckpointTuple | None:
            async for saved in saver.alist(config):
                if memory_in(saved) == memory:
                    return saved
            return None

        found: CheckpointTuple | None = yield Effect(
            lambda: next((one for one in saver.list(config) if memory_in(one) == memory), None),
            afound,
        )
        return found


def place_of_call(config: Mapping[str, Any]) -> Place:
    """The place of the node that runs under `config`."""
    values = config.get("configurable", {})
    task = values.get("checkpoint_ns") or ""
    namespace = task.rpartition("|")[0]
    thread = values.get("thread_id")
    saver = values.get(_SAVER_KEY)
    return Place(
        saver=saver if isinstance(saver, BaseCheckpointSaver) else None,
        thread=None if thread is None else str(thread),
        namespace=namespace,
        checkpoint=(values.get("checkpoint_map") or {}).get(namespace),
    )


def place_of_thread(saver: object, config: Mapping[str, Any]) -> Place:
    """The place that a caller's `config` names.

    Raises:
        ThreadHistoryError: the graph has no checkpointer, or the config names no thread.
    """
    values = config.get("configurable", {})
    if not isinstance(saver, BaseCheckpointSaver):
        raise ThreadHistoryError(
            "a thread's memory lives in the graph's checkpointer",
            got="a graph without one",
            remedy="Compile the graph with checkpointer=SQLAlchemySaver(...).",
        )
    if values.get("thread_id") is None:
        raise ThreadHistoryError(
            "a config names its thread",
            got=dict(values),
            remedy='Pass {"configurable": {"thread_id": "..."}}.',
        )
    return Place(
        saver,
        str(values["thread_id"]),
        values.get("checkpoint_ns", ""),
        values.get("checkpoint_id"),
    )
