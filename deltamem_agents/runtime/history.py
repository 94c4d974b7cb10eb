"""A history as it was sent, with its names; what is sent again is not digested again.

Frameworks send the whole history with every call. A live session keeps what was made of it, so that
of a follow-up turn only the new messages are read; those before them are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from deltamem_agents.runtime.messages import Message, digest, normalise


@dataclass(frozen=True, eq=False)
class History:
    """A conversation without its system prompt. Lists in it are shared and never changed.

    Args:
        sent: the messages as they came, copied.
        entries: the normalised messages.
        names: their digests.
        rolled: `roll("", names[:n])` at n, from 0 to the number of messages.
        nested: places of messages with values in values, which equality alone does not tell apart.
        size: characters of all contents.
    """

    sent: list[Message]
    entries: list[dict[str, Any]]
    names: list[str]
    rolled: list[str]
    nested: list[int]
    size: int = 0


NOTHING = History([], [], [], [""], [])


def read_history(
    messages: Sequence[Message], known: History | None = None
) -> tuple[dict[str, Any] | None, History]:
    """Bring messages into one form and name them.

    Args:
        messages: the conversation, oldest first.
        known: an earlier history; what this one has in common with it is taken from there.

    Returns:
        The normalised system prompt, if there is one, and the rest.

    Raises:
        MessageError: see `normalise`.
    """
    lead = 0
    while lead < len(messages) and messages[lead].get("role") == "system":
        lead += 1
    system = normalise(messages[:lead])[0] if lead else None
    rest = list(messages[lead:])
    known = known or NOTHING
    count = _agreed(known, rest)
    first = max(0, count - 1)  # so that a system message among the new ones has one before it
    new = normalise(rest[first:])[count - first :]
    if count == len(known.sent) and not new:
        return system, known
    return system, _longer(known, count, rest[count:], new)


def _agreed(known: History, rest: list[Message]) -> int:
    """How many messages both begin with."""
    count = min(len(known.sent), len(rest))
    if known.sent[:count] != rest[:count]:
        pairs = zip(known.sent, rest, strict=False)
        count = next(place for place, (one, other) in enumerate(pairs) if one != other)
    # True equals 1, and 1 equals 1.0, but they are other messages.
    changed = (n for n in known.nested if n < count and not _alike(known.sent[n], rest[n]))
    return next(changed, count)


def _longer(
    known: History, count: int, sent: list[Message], entries: list[dict[str, Any]]
) -> History:
    names = [digest(entry) for entry in entries]
    rolled = known.rolled[: count + 1]
    for name in names:
        rolled.append(hashlib.sha256(f"{rolled[-1]}:{name}".encode()).hexdigest())
    nested = [place for place in known.nested if place < count]
    nested += [place for place, message in enumerate(sent, count) if _is_nested(message)]
    return History(
        [*known.sent[:count], *map(deepcopy, sent)],
        [*known.entries[:count], *entries],
        [*known.names[:count], *names],
        rolled,
        nested,
        known.size + sum(len(entry["content"]) for entry in entries),
    )


def _is_nested(message: Message) -> bool:
    return any(value and not isinstance(value, str) for value in message.values())


def _alike(one: object, other: object) -> bool:
    """Whether two JSON values are the same, to the type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return list(one) == list(other) and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other
