"""LangGraph's suite calls async methods only; this runs our sync ones under those names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from deltamem_agents.checkpoint import SQLAlchemySaver


class SyncAdapter(BaseCheckpointSaver[str]):
    """Every async method of the contract calls the sync one of the saver."""

    def __init__(self, saver: SQLAlchemySaver) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        return self.saver.get_tuple(config)

    async def alist(self, config: Any, **more: Any) -> AsyncIterator[CheckpointTuple]:
        for entry in self.saver.list(config, **more):
            yield entry

    async def aput(self, *parts: Any) -> Any:
        return self.saver.put(*parts)

    async def aput_writes(
        self, config: Any, writes: Any, task_id: str, task_path: str = ""
    ) -> None:
        self.saver.put_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        self.saver.delete_thread(thread_id)

    async def adelete_for_runs(self, run_ids: Any) -> None:
        self.saver.delete_for_runs(run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.saver.copy_thread(source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        self.saver.prune(thread_ids, strategy=strategy)
