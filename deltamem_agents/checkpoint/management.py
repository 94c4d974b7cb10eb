"""The saver's methods beside LangGraph's hot path: memories, removal, copies, fences.

Every method has an async twin with an "a" before its name; both run the same operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory

from deltamem_agents.checkpoint import memories, retention, upkeep
from deltamem_agents.checkpoint.history import history
from deltamem_agents.checkpoint.identifiers import address_of, checked_thread
from deltamem_agents.checkpoint.maintenance import Maintenance
from deltamem_agents.checkpoint.memories import MemoryRecord
from deltamem_agents.checkpoint.metadata import FENCE_KEY
from deltamem_agents.checkpoint.removal import Removal
from deltamem_agents.core.state import MemoryState

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.transactions import Operation

T = TypeVar("T")


class Management(Maintenance):
    """Mixed into `SQLAlchemySaver`."""

    # -- memories -----------------------------------------------------------------------------

    def memories(self, thread_id: str, *, namespace: str | None = "") -> list[MemoryRecord]:
        """The course of a thread's memory, oldest checkpoint first (read from SQL alone)."""
        return self._manage(memories.course(checked_thread(thread_id), namespace), write=False)

    async def amemories(self, thread_id: str, *, namespace: str | None = "") -> list[MemoryRecord]:
        """Async `memories`."""
        make = memories.course(checked_thread(thread_id), namespace)
        return await self._amanage(make, write=False)

    def memory_at(self, config: RunnableConfig, channel: str | None = None) -> MemoryState | None:
        """The memory of one checkpoint (the newest, without a checkpoint id).

        Args:
            config: names thread, namespace and perhaps a checkpoint.
            channel: which, where the state has several memories.
        """
        return self._manage(memories.at(address_of(config), channel), write=False)

    async def amemory_at(
        self, config: RunnableConfig, channel: str | None = None
    ) -> MemoryState | None:
        """Async `memory_at`."""
        return await self._amanage(memories.at(address_of(config), channel), write=False)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Per channel, the writes since the nearest stored value among the ancestors."""
        if not channels:
            return {}
        return self._manage(history(address_of(config), channels), write=False)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async `get_delta_channel_history`."""
        if not channels:
            return {}
        return await self._amanage(history(address_of(config), channels), write=False)

    # -- removal ------------------------------------------------------------------------------

    def _remove(self, makes: Sequence[retention.Make]) -> Removal:
        report = sum((self._manage(make) for make in makes), Removal())
        return replace(report, purged=self._database.purge())

    async def _aremove(self, makes: Sequence[retention.Make]) -> Removal:
        report = sum([await self._amanage(make) for make in makes], Removal())
        return replace(report, purged=await self._database.apurge())

    def delete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread, also from the bytes of a SQLite file."""
        self._remove([retention.delete_thread(checked_thread(thread_id))])

    async def adelete_thread(self, thread_id: str) -> None:
        """Async `delete_thread`."""
        await self._aremove([retention.delete_thread(checked_thread(thread_id))])

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs (what other checkpoints need is hidden)."""
        if run_ids:
            self._remove([retention.delete_runs(run_ids)])

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async `delete_for_runs`."""
        if run_ids:
            await self._aremove([retention.delete_runs(run_ids)])

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the newest checkpoint of each namespace ("keep_latest"), or nothing ("delete")."""
        self._remove(retention.pruners(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Async `prune`."""
        await self._aremove(retention.pruners(thread_ids, strategy))

    def retain(
        self,
        thread_id: str | None = None,
        *,
        keep_last: int | None = None,
        max_age: timedelta | float | None = None,
        dry_run: bool = False,
    ) -> Removal:
        """Remove the checkpoints that no rule keeps; a thread of which none is left goes whole.

        Args:
            thread_id: one thread; all of the tenant without it (each in its own transaction).
            keep_last: keeps the newest so many of each namespace.
            max_age: keeps what is younger (a timedelta, or seconds).
            dry_run: change nothing, and report what would have gone.
        """
        oldest = retention.check_rules(keep_last, max_age)
        names = (
            [thread_id] if thread_id is not None else self._manage(retention.threads, write=False)
        )
        makes = retention.retainers(names, keep_last, oldest, dry_run)
        try:
            return self._remove(makes)
        except retention.DryRun as dry:
            return dry.removal

    async def aretain(
        self,
        thread_id: str | None = None,
        *,
        keep_last: int | None = None,
        max_age: timedelta | float | None = None,
        dry_run: bool = False,
    ) -> Removal:
        """Async `retain`."""
        oldest = retention.check_rules(keep_last, max_age)
        names = (
            [thread_id]
            if thread_id is not None
            else await self._amanage(retention.threads, write=False)
        )
        makes = retention.retainers(names, keep_last, oldest, dry_run)
        try:
            return await self._aremove(makes)
        except retention.DryRun as dry:
            return dry.removal

    # -- copies, fences -----------------------------------------------------------------------

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes to an empty thread; contents are shared."""
        self._manage(_copy(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Async `copy_thread`."""
        await self._amanage(_copy(source_thread_id, target_thread_id))

    def fence(self, config: RunnableConfig) -> RunnableConfig:
        """Become the only writer of the config's thread.

        Returns:
            The config with a fencing token. Whoever writes to the thread with an older token gets
            a `ConflictError`, and nothing is stored. Configs without a token are not fenced.
        """
        token = self._manage(_fence(config))
        return _with_token(config, token)

    async def afence(self, config: RunnableConfig) -> RunnableConfig:
        """Async `fence`."""
        return _with_token(config, await self._amanage(_fence(config)))


def _copy(source: str, target: str) -> Callable[[Context], Operation[int]]:
    return retention.copy_thread(checked_thread(source), checked_thread(target))


def _fence(config: RunnableConfig) -> Callable[[Context], Operation[int]]:
    thread_id = address_of(config).thread_id
    return lambda context: lambda session: upkeep.take_fence(session, context, thread_id)


def _with_token(config: RunnableConfig, token: int) -> RunnableConfig:
    return {**config, "configurable": {**config["configurable"], FENCE_KEY: token}}
