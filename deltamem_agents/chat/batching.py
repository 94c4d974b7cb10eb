"""Many inputs at once: as many side by side as the queue takes, on one forward call a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list

from deltamem_agents.chat.loaded import LoadedChat


class BatchedChat(LoadedChat):
    """A loaded model that answers many inputs side by side."""

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many inputs side by side, on one forward call a token for all of them."""
        configs = self._side_by_side(config, len(inputs))
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """As `batch`."""
        configs = self._side_by_side(config, len(inputs))
        return await super().abatch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def batch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """As `batch`; yield the place of an input and its answer, the quickest first."""
        configs = self._side_by_side(config, len(inputs))
        if return_exceptions:  # two calls, since LangChain's signature knows two literals
            return super().batch_as_completed(inputs, configs, return_exceptions=True, **kwargs)
        return super().batch_as_completed(inputs, configs, **kwargs)

    async def abatch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, Any]]:
        """As `batch_as_completed`; whoever stops listening stops the answers that are left."""
        configs = self._side_by_side(config, len(inputs))
        gate = asyncio.Semaphore(configs[0]["max_concurrency"] or 1) if configs else None

        async def answer(place: int) -> tuple[int, Any]:
            assert gate is not None
            async with gate:
                try:
                    return place, await self.ainvoke(inputs[place], configs[place], **kwargs)
                except Exception as error:
                    if not return_exceptions:
                        raise
                    return place, error

        tasks = [asyncio.create_task(answer(place)) for place in range(len(inputs))]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _side_by_side(
        self, config: RunnableConfig | Sequence[RunnableConfig] | None, count: int
    ) -> list[RunnableConfig]:
        """Let in as many at once as the caller wants, and never more than the queue takes."""
        configs = get_config_list(config, count)
        most = min(count, self.engine.scheduler.queue_size)
        for each in configs:
            each["max_concurrency"] = min(each.get("max_concurrency") or most, most)
        return configs
