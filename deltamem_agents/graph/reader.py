"""Reads messages into memories with a graph's own model, prompt and tools, outside of its calls."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from langchain_core.messages import AnyMessage, SystemMessage

from deltamem_agents.chat.messages import to_dict
from deltamem_agents.chat.tools import tool_schemas
from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import DivergenceError
from deltamem_agents.graph.steps import Effect, Steps
from deltamem_agents.graph.turns import turns
from deltamem_agents.runtime.messages import digest, normalise
from deltamem_agents.runtime.window import Alignment, align

BAR_AFTER_SECONDS = 2.0
_TURNS_AT_ONCE = 8


@dataclass(frozen=True)
class Reader:
    """How a graph's δ-mem model reads.

    Args:
        model: a `ChatDeltaMem`.
        system: the system prompt before the messages, "" for none.
        tools: what the model may call, as it is bound to the model.
    """

    model: Any
    system: str = ""
    tools: Sequence[Any] = ()

    def plain(self, messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
        """The prompt's messages as the runtime knows them, the system prompt first."""
        system = [SystemMessage(self.system)] if self.system else []
        return [to_dict(message) for message in (*system, *messages)]

    def digests(self, messages: Sequence[AnyMessage]) -> list[str]:
        """The names under which a ledger knows the messages, one each.

        A system message has a name too, which no ledger holds.
        """
        return [digest(normalise([to_dict(message)])[0]) for message in messages]

    def holds_any(self, names: Collection[str], messages: Sequence[AnyMessage]) -> bool:
        """Whether one of the digests is a message's; looks from the newest on."""
        return any(self.digests([message])[0] in names for message in reversed(messages))

    def fit(self, memory: MemoryState, messages: Sequence[AnyMessage]) -> Alignment:
        """Where the memory stands in the messages.

        Raises:
            DivergenceError: what it holds visible was changed there.
        """
        entries = [entry for entry in normalise(self.plain(messages)) if entry["role"] != "system"]
        return align(memory.ledger, entries)

    def lost(self, memory: MemoryState, messages: Sequence[AnyMessage]) -> int | None:
        """How many of the messages that the memory holds visible the history lacks at its front.

        None where it differs from what was read in any other way.
        """
        try:
            return len(self.fit(memory, messages).lost)
        except DivergenceError:
            return None

    def read(
        self, memory: MemoryState | None, messages: Sequence[AnyMessage]
    ) -> Steps[MemoryState]:
        """Read what is new of a history; returns the memory after its last message.

        Long readings go turn by turn, with a progress bar after two seconds.
        """
        engine = self.model.engine
        options = {"tools": tool_schemas(self.tools) or None, "thinking": self.model.thinking}
        pieces = turns(messages)
        result = memory if memory is not None else engine.empty_state()
        with Bar(len(pieces)) as bar:
            for last in range(_TURNS_AT_ONCE, max(len(pieces), 1) + _TURNS_AT_ONCE, _TURNS_AT_ONCE):
                part = [message for piece in pieces[:last] for message in piece]
                if last < len(pieces) and not self._news(result, part):
                    continue
                before, plain = result, self.plain(part)
                result = yield Effect(
                    partial(engine.read, before, plain, **options),
                    partial(engine.aread, before, plain, **options),
                )
                bar.at(min(last, len(pieces)))
        return result

    def _news(self, memory: MemoryState, messages: Sequence[AnyMessage]) -> bool:
        count = sum(message.type != "system" for message in messages)
        return count > memory.ledger.evicted_count + len(memory.ledger.visible)


class Bar:
    """A progress bar that appears only where reading takes longer than two seconds."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._begun = time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        return self

    def at(self, done: int) -> None:
        """Say how many turns were read."""
        if self._progress is None:
            if time.monotonic() - self._begun < BAR_AFTER_SECONDS or done >= self.total:
                return
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("reading the conversation again", total=self.total)
        self._progress.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
