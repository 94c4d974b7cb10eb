"""The saver's methods beside LangGraph's hot path: removal, copies, memories, upkeep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.runnables import RunnableConfig

from deltamem_agents.checkpoint import memories, removal
from deltamem_agents.checkpoint.identifiers import address_of, checked_thread
from deltamem_agents.checkpoint.memories import MemoryRecord
from deltamem_agents.core.state import MemoryState

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.database import Database, Operation

T = TypeVar("T")


class Management:
    """Mixed into `SQLAlchemySaver`; every method has an async twin with an "a" before its name."""

    _database: Database

    def _manage(self, make: Callable[[Context], Operation[T]]) -> T:
        raise NotImplementedError

    async def _amanage(self, make: Callable[[Context], Operation[T]]) -> T:
        raise NotImplementedError

    # -- memories -----------------------------------------------------------------------------

    def memories(self, thread_id: str, *, namespace: str | None = "") -> list[MemoryRecord]:
        """The course of a thread's memory, oldest checkpoint first (read from SQL alone)."""
        return self._manage(memories.course(checked_thread(thread_id), namespace))

    async def amemories(self, thread_id: str, *, namespace: str | None = "") -> list[MemoryRecord]:
        """Async `memories`."""
        return await self._amanage(memories.course(checked_thread(thread_id), namespace))

    def memory_at(self, config: RunnableConfig, channel: str | None = None) -> MemoryState | None:
        """The memory of one checkpoint (the newest, without a checkpoint id).

        Args:
            config: names thread, namespace and perhaps a checkpoint.
            channel: which, where the state has several memories.
        """
        return self._manage(memories.at(address_of(config), channel))

    async def amemory_at(
        self, config: RunnableConfig, channel: str | None = None
    ) -> MemoryState | None:
        """Async `memory_at`."""
        return await self._amanage(memories.at(address_of(config), channel))

    # -- removal ------------------------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread, also from the bytes of a SQLite file."""
        self._manage(_delete(checked_thread(thread_id)))
        self._database.purge()

    async def adelete_thread(self, thread_id: str) -> None:
        """Async `delete_thread`."""
        await self._amanage(_delete(checked_thread(thread_id)))
        await self._database.apurge()


def _delete(thread_id: str) -> Callable[[Context], Operation[removal.Removal]]:
    return lambda context: lambda session: removal.delete_thread(session.core, context, thread_id)


__all__ = ["Any", "Management", "Sequence"]
