"""`ThreadMemory`: ingest, revise, forget and retrieve on one thread, and its memory in and out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from os import PathLike
from typing import Any

from langchain_core.runnables import RunnableConfig

from deltamem_agents.core.state import MemoryState
from deltamem_agents.graph import asks, intake, transfer
from deltamem_agents.graph.repeated import Repeats
from deltamem_agents.graph.reports import Forgotten, Ingested, Retrieved
from deltamem_agents.graph.starting import Material
from deltamem_agents.graph.steps import arun, run
from deltamem_agents.graph.thread import Thread
from deltamem_agents.graph.turns import Predicate
from deltamem_agents.graph.unlearn import Undecided, forget


class ThreadMemory:
    """The memory of one thread of a graph, outside of the graph's runs.

    Every method has an async twin with an "a" before its name. Methods that change something make
    a new checkpoint (`forget` rewrites those there are); none makes a node run.

    Args:
        graph: compiled, with a checkpointer; an agent with `DeltaMemMiddleware`, or a graph with a
            `memory_node`.
        config: names the thread, and perhaps a checkpoint (then a branch grows from there).
        model: the `ChatDeltaMem`, where the graph does not tell it (an agent that a node calls).
        system_prompt: the one that the thread's calls have, where the graph does not tell it.
        tools: those of the thread's calls, where neither graph nor `model` tells them.
        context: what the thread's runs are given as `context=`, where middleware looks at it.
        saver: the checkpointer, where the graph does not hold it itself.
        router: a `HybridRouter`, where it is not the graph's.

    Raises:
        ThreadHistoryError: no checkpointer, or the config names no thread.
    """

    def __init__(
        self,
        graph: Any,
        config: RunnableConfig,
        *,
        model: Any | None = None,
        system_prompt: str | None = None,
        tools: Sequence[Any] | None = None,
        context: Any = None,
        saver: Any | None = None,
        router: Any | None = None,
    ) -> None:
        reads = {"system_prompt": system_prompt, "tools": tools, "context": context}
        self._thread = Thread.of(graph, config, model=model, saver=saver, router=router, **reads)

    def __repr__(self) -> str:
        return f"ThreadMemory({self._thread.place.thread!r})"

    def memory(self) -> MemoryState | None:
        """The memory now; None if the thread has none."""
        return run(self._thread.memory())

    async def amemory(self) -> MemoryState | None:
        """Async `memory`."""
        return await arun(self._thread.memory())

    def ingest(self, documents: Material | Iterable[Material]) -> Ingested:
        """Read material into the memory without an answer.

        Each document becomes a user's message of the thread (long ones several), marked with
        `additional_kwargs["lc_source"] == "deltamem_ingest"`, so that it leaves the window, is
        forgotten and is cited as any other.

        Args:
            documents: texts, LangChain documents or messages; one or many.

        Raises:
            ConfigError: a document is of another type.
            ThreadHistoryError: the thread waits in the middle of a run.
        """
        return run(intake.ingest(self._thread, documents))

    async def aingest(self, documents: Material | Iterable[Material]) -> Ingested:
        """Async `ingest`."""
        return await arun(intake.ingest(self._thread, documents))

    def revise(self, statement: Material) -> Ingested:
        """Tell the thread a new value; it overwrites the old one by the delta rule.

        The exact store closes the old row and keeps it, dated; `forget` is what removes.

        Args:
            statement: such as "My locker code is 93 now.".
        """
        return run(intake.ingest(self._thread, statement))

    async def arevise(self, statement: Material) -> Ingested:
        """Async `revise`."""
        return await arun(intake.ingest(self._thread, statement))

    def forget(
        self,
        messages: str | Collection[str] | Predicate,
        *,
        values: Sequence[str] = (),
        repeats: Repeats = "report",
        undecided: Undecided = "raise",
    ) -> Forgotten:
        """Remove whole turns from the thread, its past, its memory and the exact store.

        The memory is rebuilt by reading the messages that stay, from the nearest checkpoint before
        the first that goes: it equals that of a thread that never heard what is forgotten.

        Args:
            messages: ids, or a function that tells of a message whether it goes. The whole turn of
                such a message goes: the user's message and all that answers it.
            values: what later messages are searched for, beside the typed values (numbers, dates,
                names in the exact store, ...) of the forgotten turns.
            repeats: "report" lists later messages that say a forgotten value or text again, and
                summaries written from it; "forget" removes their turns too.
            undecided: a run with `durability="exit"` may hold several turns, of which only some
                go; nothing tells in which of them an agent inside the graph was told something.
                "raise" forgets nothing then; "forget" takes all that such agents were told and
                said in that run. So too where the thread was read with another system prompt or
                other tools than it would be now: "raise" forgets nothing, "forget" reads what stays
                with those of now.

        A call that failed half-way, or whose process died, is made good by the same call again.

        Raises:
            ThreadHistoryError: the thread holds no such message, and has forgotten none; messages
                that must be read again are in no checkpoint any more; see `undecided`; a message of
                a forgotten turn has no id; or an agent inside a tool keeps its messages in a way
                that nothing can be taken out of.
            ConflictError: others kept writing to the thread; its messages are all there.
        """
        chosen = [messages] if isinstance(messages, str) else messages
        return run(forget(self._thread, chosen, tuple(values), repeats, undecided))

    async def aforget(
        self,
        messages: str | Collection[str] | Predicate,
        *,
        values: Sequence[str] = (),
        repeats: Repeats = "report",
        undecided: Undecided = "raise",
    ) -> Forgotten:
        """Async `forget`."""
        chosen = [messages] if isinstance(messages, str) else messages
        return await arun(forget(self._thread, chosen, tuple(values), repeats, undecided))

    def retrieve(self, question: str) -> Retrieved:
        """Ask the memory something and store nothing.

        Raises:
            ThreadHistoryError: the thread has no memory.
        """
        return run(asks.retrieve(self._thread, question))

    async def aretrieve(self, question: str) -> Retrieved:
        """Async `retrieve`."""
        return await arun(asks.retrieve(self._thread, question))

    def export(self, path: str | PathLike[str]) -> MemoryState:
        """Write the memory to a file, whole or not at all; returns it.

        Raises:
            ThreadHistoryError: the thread has no memory.
        """
        return run(transfer.export(self._thread, path))

    async def aexport(self, path: str | PathLike[str]) -> MemoryState:
        """Async `export`."""
        return await arun(transfer.export(self._thread, path))

    def import_from(
        self, source: MemoryState | str | PathLike[str], *, replace: bool = False
    ) -> MemoryState:
        """Begin this thread with another memory.

        All that the memory has read is only in its state from now on; this thread's own messages
        are read on top of it at the next call.

        Args:
            source: a memory, or a file that `export` wrote.
            replace: also where the thread has a memory, which is then left behind.

        Raises:
            StateError: the memory was made with another model; or the thread has one already.
            FileFormatError: the file is damaged.
        """
        return run(transfer.begin_with(self._thread, source, replace=replace))

    async def aimport_from(
        self, source: MemoryState | str | PathLike[str], *, replace: bool = False
    ) -> MemoryState:
        """Async `import_from`."""
        return await arun(transfer.begin_with(self._thread, source, replace=replace))

    def copy_to(self, thread_id: str, *, replace: bool = False) -> MemoryState:
        """Begin another thread with this one's memory; its messages and facts are not copied.

        Raises:
            ThreadHistoryError: this thread has no memory.
            StateError: the other one has, and `replace` is False.
        """
        return run(transfer.copy_to(self._thread, thread_id, replace=replace))

    async def acopy_to(self, thread_id: str, *, replace: bool = False) -> MemoryState:
        """Async `copy_to`."""
        return await arun(transfer.copy_to(self._thread, thread_id, replace=replace))
