"""Which messages a memory has read, found again from the thread's checkpoints.

A memory's ledger names its messages by digest and never holds text. The text stands in the
checkpoints: what was visible at one of them and was evicted, summarised or removed later is still
in the older ones. The rolling digest of the ledger proves that what was found is what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from langchain_core.messages import AnyMessage

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ThreadHistoryError
from deltamem_agents.graph.turns import is_summary
from deltamem_agents.runtime.messages import roll
from deltamem_agents.runtime.window import visible_digests

Digests = Callable[[Sequence[AnyMessage]], list[str]]


@dataclass(frozen=True)
class Heard:
    """One message that a memory has read, and the digest under which the ledger knows it."""

    digest: str
    message: AnyMessage


@dataclass
class Transcript:
    """The messages that the memory of one branch has read, followed from checkpoint to checkpoint.

    Args:
        digests: names messages as the ledger does, one name each, in order.
        base: the ledger of the memory that the thread began with.
        heard: what was read since then, oldest first.
        without: ids of messages that later memories may not have read, where an earlier call that
            forgets them did not come to its end.
    """

    digests: Digests
    base: Ledger = field(default_factory=Ledger)
    heard: tuple[Heard, ...] = ()
    without: Collection[str] = ()

    def after(self, memory: MemoryState | None, messages: Sequence[AnyMessage]) -> Transcript:
        """The transcript at the next checkpoint.

        Args:
            memory: the memory at that checkpoint.
            messages: the messages at that checkpoint.

        Raises:
            ThreadHistoryError: messages that the memory has read are in no checkpoint any more.
        """
        if memory is None:
            return replace(self, heard=())
        said = [
            Heard(digest, message)
            for digest, message in zip(self.digests(messages), messages, strict=True)
        ]
        names = visible_digests(memory.ledger)
        gone = memory.ledger.evicted_count - self.base.evicted_count
        for evicted in self._candidates(said, names, gone):
            rolled = roll(self.base.evicted, [heard.digest for heard in evicted])
            if rolled == memory.ledger.evicted:
                visible = _find(names, [*self.heard, *said])
                if visible is not None:
                    return replace(self, heard=(*evicted, *visible))
        raise ThreadHistoryError(
            "the messages that a memory has read are in the thread's checkpoints",
            got=f"{memory.ledger.evicted_count + len(memory.ledger.visible)} messages read",
            remedy="Checkpoints were pruned, or never stored (durability='exit'), after messages "
            "left the state or middleware showed other texts; what is left cannot be replayed "
            "exactly. Keep more checkpoints, or begin the thread anew.",
        )

    def told(self, messages: Sequence[AnyMessage]) -> Transcript:
        """The transcript as if the memory had read the messages as they stand in the thread.

        Those that left the thread's beginning stay in it.
        """
        read = [message for message in messages if not _is_unread(message)]
        said = [Heard(*pair) for pair in zip(self.digests(read), read, strict=True)]
        first = said[0].message.id if said else None
        names = [heard.message.id for heard in self.heard]
        gone = self.heard[: names.index(first)] if first in names else self.heard
        return replace(self, heard=(*gone, *said))

    def _candidates(
        self, said: Sequence[Heard], visible: Sequence[str], gone: int
    ) -> Iterable[tuple[Heard, ...]]:
        """Guesses at the evicted messages, each of the right number, the likeliest first."""
        known = self.heard
        if gone < 0:
            return
        if len(known) >= gone:
            yield known[:gone]
        stays = tuple(heard for heard in known if heard.message.id not in self.without)
        if len(stays) >= gone and len(stays) < len(known):
            yield stays[:gone]
        before = _before(visible, said)
        if len(before) >= gone:
            yield tuple(before[len(before) - gone :])
        names = [heard.digest for heard in known]
        fresh = [heard for heard in before if heard.digest not in set(names)]
        joined = (*known, *fresh)
        if len(joined) >= gone:
            yield joined[:gone]


def _is_unread(message: AnyMessage) -> bool:
    """Whether a message is in no ledger: a system prompt, or the summary of others."""
    return message.type == "system" or is_summary(message)


def _before(visible: Sequence[str], said: Sequence[Heard]) -> list[Heard]:
    """What stands before the visible messages in the state."""
    names = [heard.digest for heard in said]
    for start in range(len(names) - len(visible), -1, -1):
        if tuple(names[start : start + len(visible)]) == tuple(visible):
            return list(said[:start])
    return list(said)


def _find(visible: Sequence[str], pool: Sequence[Heard]) -> list[Heard] | None:
    """The newest message of each visible digest; None where one is missing.

    Messages of equal digest say the same, but have ids of their own: the k-th from the end of the
    ledger is the k-th from the end of the pool.
    """
    found: list[Heard] = []
    end = len(pool)
    for digest in reversed(visible):
        place = next((i for i in range(end - 1, -1, -1) if pool[i].digest == digest), None)
        if place is None:
            other = next((heard for heard in reversed(pool) if heard.digest == digest), None)
            if other is None:
                return None
            found.append(other)
            continue
        found.append(pool[place])
        end = place
    return found[::-1]
