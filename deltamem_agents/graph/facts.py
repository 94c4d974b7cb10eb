"""The exact stores in which a thread's facts may stand, and their part in forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage
from sqlalchemy import Connection

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.thread import Thread
from deltamem_agents.graph.turns import said_by
from deltamem_agents.router import FactStore, HybridRouter, Scope
from deltamem_agents.router.extract import extract
from deltamem_agents.router.forget import erase


@dataclass(frozen=True)
class ThreadFacts:
    """The facts of one thread, whichever agent recorded them.

    Args:
        thread: the thread's id.
        beside: stores in the saver's database; their facts go in one transaction with the past.
        apart: other stores that hold facts of the thread.
    """

    thread: str
    beside: tuple[FactStore, ...]
    apart: tuple[Any, ...]

    def told_by(self, lost: Mapping[str, AnyMessage]) -> Steps[list[str]]:
        """The values of the facts that these messages told."""
        values: list[str] = []
        for store in (*self.beside, *self.apart):
            scope = self._scope(store)
            if isinstance(store, FactStore):
                known = yield Effect(lambda: store.facts(scope, closed=True, limit=10**6))  # noqa: B023
                values += [fact.value for fact in known if fact.source_message_id in lost]
        if self.apart:  # there they may be gone already, by a call that did not come to its end
            told = [said_by(one) for one in lost.values() if not isinstance(one, AIMessage)]
            values += [draft.value for text in told for draft in extract(text, keep_secrets=True)]
        return values

    def forget_apart(self, gone: set[str]) -> Steps[tuple[list[str], bool]]:
        """Delete the facts of these messages from other databases.

        Returns:
            Their ids, and whether their bytes are gone too.
        """
        ids: list[str] = []
        purged = True
        for store in self.apart:
            scope = self._scope(store)
            report = yield Effect(lambda: store.forget(scope, message_ids=sorted(gone)))  # noqa: B023
            ids += report.forgotten
            purged = purged and report.purged
        return ids, purged

    def forget_beside(self, gone: set[str], connection: Connection) -> list[str]:
        """Delete the facts of these messages within a transaction of the saver's database."""
        ids: list[str] = []
        for store in self.beside:
            shelf = store.access.shelf
            found, _ = erase(shelf, connection, self._scope(store), (), tuple(sorted(gone)))
            ids += found
        return ids

    def uncached(self) -> None:
        """Drop what the stores beside keep in the process."""
        for store in self.beside:
            if store.vectors is not None:
                store.vectors.drop(self._scope(store))

    def _scope(self, store: Any) -> Scope:
        return Scope(store.tenant, self.thread)


def facts_of(thread: Thread, router: HybridRouter | None) -> Steps[ThreadFacts]:
    """The router's store, and the one in the saver's database, where another agent records."""
    saver, given = thread.saver, () if router is None else (router.store,)
    name = str(thread.place.thread)
    if not isinstance(saver, SQLAlchemySaver):
        return ThreadFacts(name, (), given)
    beside = tuple(one for one in given if isinstance(one, FactStore) and _is_in(saver, one))
    apart = tuple(one for one in given if one not in beside)
    if not beside:
        beside = ((yield Effect(lambda: FactStore(saver))),)
    return ThreadFacts(name, beside, apart)


def _is_in(saver: SQLAlchemySaver, store: FactStore) -> bool:
    return store.engine is saver.engine and store.tenant == saver.tenant
