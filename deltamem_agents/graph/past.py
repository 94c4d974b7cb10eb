"""A thread's checkpoints as forgetting sees them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.saved import messages_in
from deltamem_agents.graph.scrub import mentions
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread
from deltamem_agents.graph.turns import Predicate, selected_turns


@dataclass
class Past:
    """The thread's checkpoints, and what is to be forgotten in them.

    Args:
        saved: all checkpoints of all namespaces, oldest first.
        namespace: the one whose memory is rebuilt.
        gone: ids of the forgotten messages.
        lost: the forgotten messages by id.
    """

    saved: list[CheckpointTuple]
    namespace: str
    gone: set[str] = field(default_factory=set)
    lost: dict[str, AnyMessage] = field(default_factory=dict)

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


def id_of(saved: CheckpointTuple) -> str:
    """The checkpoint's id."""
    return saved.checkpoint["id"]


def parent_of(saved: CheckpointTuple) -> str | None:
    """The id of the checkpoint before it."""
    parent = (saved.parent_config or {}).get("configurable", {})
    name: str | None = parent.get("checkpoint_id")
    return name


def namespace_of(saved: CheckpointTuple) -> str:
    """The namespace of its (sub)graph."""
    name: str = saved.config["configurable"].get("checkpoint_ns", "")
    return name


def load_past(thread: Thread) -> Steps[list[CheckpointTuple]]:
    """Read all checkpoints of all namespaces, oldest first.

    Raises:
        ThreadHistoryError: the thread has none.
    """
    saver, config = thread.saver, {"configurable": {"thread_id": thread.place.thread}}

    async def alisted() -> list[CheckpointTuple]:
        return [one async for one in saver.alist(config)]  # type: ignore[arg-type]

    found: list[CheckpointTuple] = yield Effect(
        lambda: list(saver.list(config)),  # type: ignore[arg-type]
        alisted,
    )
    if not found:
        raise ThreadHistoryError("a thread has checkpoints", got=thread.place.thread)
    return sorted(found, key=lambda one: (namespace_of(one), id_of(one)))
