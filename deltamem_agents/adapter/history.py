"""How the newest tokens are taken back from a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from deltamem_agents.adapter.segments import Sums

#: How many of the newest tokens can be taken back, at least; speculation needs a few dozen.
TAIL = 256


class Undo(NamedTuple):
    """What a layer needs to take back tokens of one call.

    Args:
        length: how many can be taken back: the call's tokens, or the last of them.
        before: the state before those.
        sums: of open segments, before those.
        replay: the state and sums after the first n of those; None if length is 1.
    """

    length: int
    before: Tensor
    sums: Sums | None = None
    replay: Callable[[int], tuple[Tensor, Sums | None]] | None = None


#: What a layer leaves behind: its state, how to go back, its open segments.
Left = tuple[Tensor, Undo | None, Sums | None]


class _Call(NamedTuple):
    """What can be taken back of one call: so many of its newest tokens, by layer how."""

    length: int
    layers: dict[int, Undo]


class History(NamedTuple):
    """The calls that hold the newest tokens; a value, so that a memory changes all at once.

    Args:
        calls: newest last.
        tokens: how many can be taken back.
    """

    calls: tuple[_Call, ...] = ()
    tokens: int = 0

    def with_call(self, left: Mapping[int, Left], layers: int) -> History:
        """With one call more; empty if that one cannot be taken back in each of so many layers."""
        undo = {layer: each[1] for layer, each in left.items() if each[1] is not None}
        lengths = {each.length for each in undo.values()}
        if len(undo) < layers or len(lengths) != 1:
            return History()
        (length,) = lengths
        tokens, first = self.tokens + length, 0
        while first < len(self.calls) and tokens - self.calls[first].length >= TAIL:
            tokens -= self.calls[first].length
            first += 1
        return History((*self.calls[first:], _Call(length, undo)), tokens)

    def without(self, tokens: int) -> tuple[History, dict[int, tuple[Tensor, Sums | None]]]:
        """Without the newest tokens, which are no more than there are; and each layer's state then.

        Args:
            tokens: how many are taken back.
        """
        calls, left = list(self.calls), self.tokens - tokens
        states: dict[int, tuple[Tensor, Sums | None]] = {}
        while tokens:
            call = calls.pop()
            kept = max(call.length - tokens, 0)
            tokens -= call.length - kept
            states = {layer: _shortened(undo, kept) for layer, undo in call.layers.items()}
            if kept:
                layers = {i: undo._replace(length=kept) for i, undo in call.layers.items()}
                calls.append(_Call(kept, layers))
        return History(tuple(calls), left), states


def _shortened(undo: Undo, kept: int) -> tuple[Tensor, Sums | None]:
    """The state and sums when only the first tokens of those that can be taken back are kept."""
    if not kept:
        return undo.before, undo.sums
    assert undo.replay is not None
    return undo.replay(kept)
