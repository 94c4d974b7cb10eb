"""The ledger against the history that was sent, and which turns leave the window: pure functions.

A ledger's `visible` digests are 64 hex digits; two more, `00`, mark a message that was written
before the boundary and is only read again whenever the window is (see `align`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ContextWindowError, DivergenceError
from deltamem_agents.runtime.history import History
from deltamem_agents.runtime.messages import digest, roll

READ_ONLY = "00"
_DIGEST = 64


@dataclass(frozen=True)
class Item:
    """A message in the window.

    Args:
        entry: the normalised message.
        digest: its name, 64 hex digits.
        writes: False where it was written before the boundary, so that it is only read.
    """

    entry: dict[str, Any]
    digest: str
    writes: bool = True

    @property
    def is_summary(self) -> bool:
        """Whether it stands for messages that were taken out. The ledger does not know it."""
        return bool(self.entry.get("summary"))

    @property
    def opens_turn(self) -> bool:
        """Whether a turn begins here: at a question that is no summary."""
        return self.entry["role"] == "user" and not self.is_summary


@dataclass(frozen=True)
class Alignment:
    """Where the memory stands in a history.

    Args:
        items: the messages in the window and the new ones, oldest first.
        read: how many of them the memory has read.
        lost: digests of visible messages that are no longer in the history: they are evicted, and
            the memory as it is now becomes the boundary.
    """

    items: tuple[Item, ...]
    read: int
    lost: tuple[str, ...] = ()


def visible_digests(ledger: Ledger) -> list[str]:
    """Return the digests of the visible messages without their marks."""
    return [name[:_DIGEST] for name in ledger.visible]


def align(
    ledger: Ledger, entries: Sequence[dict[str, Any]], named: History | None = None
) -> Alignment:
    """Find what of a history is new.

    A history that lacks a prefix, or has a summary in its place, is an eviction. Where visible
    messages are among what it lacks, the state at the first one that stays cannot be computed any
    more by a process that starts now; so, in every process, the present state becomes the boundary,
    and the visible messages that stay are only read from now on.

    A history with none of the visible messages has lost them all, unless what left the window still
    stands in it: then they were changed. Without evicted messages the two look alike here, and only
    who has the thread's past can tell them apart.

    Args:
        ledger: what the memory has read.
        entries: the normalised history without its system prompt.
        named: the same with its digests, where those are known already.

    Raises:
        DivergenceError: a message at or after the boundary was changed, removed, inserted or moved.
    """
    digests = named.names if named else [digest(entry) for entry in entries]
    known = visible_digests(ledger)
    writes = [len(name) == _DIGEST for name in ledger.visible]
    evicted, count = ledger.evicted_count, len(known)
    intact = evicted <= len(digests) and ledger.evicted == (
        named.rolled[evicted] if named else roll("", digests[:evicted])
    )
    if intact and digests[evicted : evicted + count] == known:
        return _joined([], _items(entries[evicted:], digests[evicted:]), writes)
    items = _items(entries, digests)
    summaries = 0
    while summaries < len(entries) and entries[summaries].get("summary"):
        summaries += 1
    head = [replace(item, writes=False) for item in items[:summaries]]
    if not intact or summaries:
        for start in range(0 if evicted else summaries, len(digests) - count + 1):
            if count and digests[start : start + count] == known:
                return _joined(head[:start], items[start:], writes)
    for lost in range(1, count):
        if digests[summaries : summaries + count - lost] == known[lost:]:
            kept = [False] * (count - lost)
            return _joined(head, items[summaries:], kept, tuple(known[:lost]))
    whole = bool(evicted) and intact  # what left the window is there: what follows it was changed
    if not whole and not set(digests) & set(known):
        return _joined(head, items[summaries:], [], tuple(known))
    raise _divergence(digests[evicted:] if intact else digests, known, entries)


def _items(entries: Sequence[dict[str, Any]], digests: list[str]) -> list[Item]:
    return [Item(entry, name) for entry, name in zip(entries, digests, strict=True)]


def _joined(
    head: list[Item], items: list[Item], writes: list[bool], lost: tuple[str, ...] = ()
) -> Alignment:
    """Put the kept messages behind a summary, marked as they were or as they now are."""
    kept = [replace(item, writes=flag) for item, flag in zip(items, writes, strict=False)]
    return Alignment((*head, *kept, *items[len(writes) :]), len(head) + len(writes), lost)


def _divergence(digests: list[str], known: list[str], entries: Sequence[Any]) -> DivergenceError:
    agreed = 0
    while agreed < min(len(digests), len(known)) and digests[agreed] == known[agreed]:
        agreed += 1
    return DivergenceError(
        "messages in the window stay as they were read",
        got=f"a history of {len(entries)} messages that differs from the memory at visible "
        f"message {agreed} of {len(known)}",
        remedy='Use on_divergence="rebuild", or fork from the checkpoint before the change.',
    )


def at_boundary(state: MemoryState) -> MemoryState:
    """Return the memory as it was before the visible messages were read.

    `tokens_written` keeps counting what was written, the visible messages included.
    """
    ledger = replace(state.ledger, visible=())
    return replace(state, state=state.boundary_state, ledger=ledger)


@dataclass(frozen=True)
class Cut:
    """Turns that leave the window.

    Args:
        at: the window is too full with the items before this index in it.
        start: index of the first item that stays.
    """

    at: int
    start: int


Measure = Callable[[int, int, bool], tuple[int, list[int]]]


def plan_cuts(
    items: Sequence[Item],
    read: int,
    measure: Measure,
    *,
    window: int,
    low_water: int,
    generate: bool,
) -> list[Cut]:
    """Decide which turns leave, and when, while new messages are read.

    The window is checked wherever a live conversation checks it: before each answer, and before a
    question that follows an unanswered one. So a history read at once is cut where the same history
    was cut message by message.

    Args:
        items: the messages in the window and the new ones.
        read: how many of them were read by earlier calls; checks before those are over.
        measure: (first, end, generate) -> (tokens outside of messages, tokens of each message).
        window: most tokens in view.
        low_water: turns leave until at most this many tokens stay.
        generate: whether an answer follows the last item.

    Raises:
        ContextWindowError: a single turn does not fit.
    """
    cuts: list[Cut] = []
    start = 0
    for end, answer in _checks(items, read, generate):
        fixed, sizes = measure(start, end, answer)
        if fixed + sum(sizes) <= window:
            continue
        start = _first_that_stays(items, start, fixed, sizes, window, low_water)
        cuts.append(Cut(end, start))
    return cuts


def _checks(items: Sequence[Item], read: int, generate: bool) -> list[tuple[int, bool]]:
    checks = []
    for end in range(max(read, 1), len(items)):
        role, before = items[end].entry["role"], items[end - 1].entry["role"]
        if role == "assistant":
            checks.append((end, True))
        elif role == "user" and before != "assistant":
            checks.append((end, False))
    if generate:
        checks.append((len(items), True))
    return checks


def _first_that_stays(
    items: Sequence[Item], start: int, fixed: int, sizes: list[int], window: int, low_water: int
) -> int:
    total = fixed + sum(sizes)
    best, fitting = start, total
    for place, size in enumerate(sizes):
        if place and items[start + place].opens_turn:
            best, fitting = start + place, total
            if total <= low_water:
                break
        total -= size
    if fitting > window:
        raise ContextWindowError(
            f"system prompt, tools and the last turn have at most context_window={window} tokens",
            got=f"{fitting} tokens",
            remedy="Shorten them, or raise context_window.",
        )
    return best


def names_of(items: Sequence[Item]) -> list[str]:
    """Return the digests under which a ledger knows messages; summaries it does not know."""
    return [item.digest for item in items if not item.is_summary]


def evict(ledger: Ledger, digests: Sequence[str]) -> Ledger:
    """Move messages from the window to the evicted ones; `visible` is left to the caller."""
    return replace(
        ledger,
        evicted=roll(ledger.evicted, digests),
        evicted_count=ledger.evicted_count + len(digests),
    )


def with_visible(ledger: Ledger, items: Sequence[Item]) -> Ledger:
    """Set the visible messages; a summary is none."""
    kept = [item for item in items if not item.is_summary]
    names = tuple(item.digest + ("" if item.writes else READ_ONLY) for item in kept)
    return replace(ledger, visible=names)
