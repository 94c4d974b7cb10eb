"""The exact stores in which a thread's facts may stand, and their part in forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread
from deltamem_agents.router import FactStore, HybridRouter, Scope


@dataclass(frozen=True)
class ThreadFacts:
    """The facts of one thread, whichever agent recorded them.

    Args:
        thread: the thread's id.
        stores: those that hold facts of it.
    """

    thread: str
    stores: tuple[Any, ...]

    def told_by(self, gone: set[str]) -> Steps[list[str]]:
        """The values of the facts that these messages told."""
        values: list[str] = []
        for store, scope in self._scoped():
            if isinstance(store, FactStore):
                known = yield Effect(lambda: store.facts(scope, closed=True, limit=10**6))  # noqa: B023
                values += [fact.value for fact in known if fact.source_message_id in gone]
        return values

    def forget(self, gone: set[str]) -> Steps[tuple[tuple[str, ...], bool]]:
        """Delete the facts of these messages; their ids, and whether their bytes are gone too."""
        ids: list[str] = []
        purged = True
        for store, scope in self._scoped():
            report = yield Effect(lambda: store.forget(scope, message_ids=sorted(gone)))  # noqa: B023
            ids += report.forgotten
            purged = purged and report.purged
        return tuple(ids), purged

    def _scoped(self) -> list[tuple[Any, Scope]]:
        return [(store, Scope(store.tenant, self.thread)) for store in self.stores]


def facts_of(thread: Thread, router: HybridRouter | None) -> Steps[ThreadFacts]:
    """The router's store, and the one in the saver's database, where another agent records."""
    saver, given = thread.saver, () if router is None else (router.store,)
    name = str(thread.place.thread)
    if not isinstance(saver, SQLAlchemySaver) or any(_is_in(saver, one) for one in given):
        return ThreadFacts(name, given)
    own = yield Effect(lambda: FactStore(saver))
    return ThreadFacts(name, (*given, own))


def _is_in(saver: SQLAlchemySaver, store: object) -> bool:
    return (
        isinstance(store, FactStore)
        and store.engine is saver.engine
        and store.tenant == saver.tenant
    )
