"""The memory of every checkpoint as if the forgotten turns had never been, read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, takewhile

import numpy as np
from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import CheckpointTuple

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ContextWindowError, DivergenceError, ThreadHistoryError
from deltamem_agents.graph.past import Past
from deltamem_agents.graph.reader import Reader
from deltamem_agents.graph.saved import id_of, memory_in, messages_in, parent_of, start_in
from deltamem_agents.graph.steps import Steps
from deltamem_agents.graph.transcript import Digests, Transcript

_TRIES = 4  # a step may have read otherwise: a history that was edited, a merge of branches
_EXACT, _ROUGH = 1e-4, 5e-2  # of the largest number; of a model in half precision, rough

Known = dict[tuple[str, ...], MemoryState | None]


@dataclass
class Rereading:
    """Follows each branch and reads again, at every checkpoint that had heard it, what stays.

    Args:
        past: with what is forgotten chosen.
        reader: reads as the thread's calls did.
    """

    past: Past
    reader: Reader
    _scripts: dict[str | None, Transcript] = field(default_factory=dict)
    # By the memory that a branch begins with (`import_from` begins anew) and the forgotten system
    # messages; then by what was read since.
    _known: dict[tuple[MemoryState | None, frozenset[str]], Known] = field(default_factory=dict)
    _unread: dict[str | None, frozenset[str]] = field(default_factory=dict)
    _whole: dict[str, int] = field(default_factory=dict)
    _changed: list[CheckpointTuple] = field(default_factory=list)

    @cached_property
    def _own(self) -> dict[str, CheckpointTuple]:
        return {id_of(one): one for one in self.past.own()}

    def memories(self, *, alike: bool) -> Steps[dict[str, MemoryState | None]]:
        """The memories by the ids of their checkpoints.

        Args:
            alike: refuse a thread whose memory was read with another prompt than the reader's.

        Raises:
            ThreadHistoryError: it was; or what must be read again is in no checkpoint any more.
        """
        digests, result = _once(self.reader), {}
        for name, one in self._own.items():
            result[name] = yield from self._memory(one, digests)
        if alike and self._changed:
            yield from self._refuse_other_prompt(self._changed)
            yield from self._refuse_other_prompt(reversed(self._changed))
        return result

    def _memory(self, one: CheckpointTuple, digests: Digests) -> Steps[MemoryState | None]:
        gone, memory, first = self.past.gone, memory_in(one), start_in(one)
        script, as_read = self._script(one, digests)
        self._scripts[id_of(one)] = script
        system = _system(messages_in(one))
        unread = {message.id for message in system if message.id in gone}
        lost = self._unread[id_of(one)] = self._unread.get(parent_of(one), frozenset()) | unread
        if memory is None:
            return None
        known = self._known.setdefault((first, lost), {(): first})
        kept = [heard for heard in script.heard if heard.message.id not in gone]
        stays = tuple(heard.digest for heard in kept)
        if len(kept) == len(script.heard) and not lost:
            if as_read:
                known[stays] = memory
            return memory
        self._changed.append(one)
        if stays not in known:
            nearest = max((name for name in known if name == stays[: len(name)]), key=len)
            head = [message for message in system if message.id not in gone]
            messages = [*head, *(heard.message for heard in kept)]
            known[stays] = yield from self.reader.read(known[nearest], messages)
        return known[stays]

    def _script(self, one: CheckpointTuple, digests: Digests) -> tuple[Transcript, bool]:
        """What its memory has read, and whether it read just that.

        Where middleware showed other texts for one call, they are in no checkpoint: the thread's
        own messages stand for what was read, as at its next call. So it is only where no checkpoint
        is missing that might hold others.
        """
        memory, first = memory_in(one), start_in(one)
        base = first.ledger if first is not None else Ledger()
        empty = Transcript(digests, base, without=self.past.gone)
        before = self._scripts.get(parent_of(one)) or empty
        before = before if before.base == base else empty
        whole = self._is_whole(one)
        try:
            return before.after(memory, messages_in(one)), True
        except ThreadHistoryError:
            if not whole:
                raise
        if memory == memory_in(self._parent(one)):
            return before, False
        return before.told(messages_in(one)), False

    def _is_whole(self, one: CheckpointTuple) -> bool:
        """Whether every step from the thread's first to this checkpoint was stored."""
        step, parent = int(one.metadata.get("step", -2)), parent_of(one)
        if step == (-1 if parent is None else self._whole.get(parent, step) + 1):
            self._whole[id_of(one)] = step
        return id_of(one) in self._whole

    def _parent(self, one: CheckpointTuple) -> CheckpointTuple | None:
        return self._own.get(parent_of(one) or "")

    def _refuse_other_prompt(self, changed: Iterable[CheckpointTuple]) -> Steps[None]:
        """Read one step of the thread again as it was, what is forgotten included.

        Nothing else tells which system prompt and tools it was read with.
        """
        for one in islice(changed, _TRIES):
            memory, parent = memory_in(one), self._parent(one)
            if (parent is None and parent_of(one)) or memory_in(parent) == memory:
                continue
            try:
                before = memory_in(parent) or start_in(one)
                again = yield from self.reader.read(before, messages_in(one))
            except (DivergenceError, ContextWindowError):
                continue
            if memory is None or again.ledger != memory.ledger:
                continue
            if not _alike(again, memory, self.reader):
                _refuse(again, memory)
            return


def _alike(one: MemoryState, other: MemoryState, reader: Reader) -> bool:
    exact = str(reader.model.engine.model.dtype).endswith("float32")
    largest = max(1.0, float(np.abs(other.state).max()))
    limit = (_EXACT if exact else _ROUGH) * largest
    return float(np.abs(one.state - other.state).max()) <= limit


def _refuse(again: MemoryState, memory: MemoryState) -> None:
    off = float(np.abs(again.state - memory.state).max())
    raise ThreadHistoryError(
        "what stays is read again with the system prompt and the tools that the thread has",
        got=f"others: a step of the thread read with them gives a memory {off:.1g} off its own",
        remedy="Pass them as ThreadMemory(..., system_prompt=..., tools=...), or context= where "
        "middleware makes them from it. Where they changed from turn to turn, undecided='forget' "
        "reads what stays with those of now.",
    )


def _system(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """The system messages with which a history begins."""
    return list(takewhile(lambda message: message.type == "system", messages))


def _once(reader: Reader) -> Digests:
    """Name each message once: a history stands in many checkpoints, as the same object."""
    known: dict[int, tuple[AnyMessage, str]] = {}  # held, so that no other gets its number

    def digests(messages: Sequence[AnyMessage]) -> list[str]:
        for message in messages:
            if id(message) not in known:
                known[id(message)] = message, reader.digests([message])[0]
        return [known[id(message)][1] for message in messages]

    return digests
