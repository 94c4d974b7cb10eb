"""Following one reply through a grammar, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltamem_agents.errors import MessageError

_AFTER_THOUGHT = 8  # tokens for the end of a character, the closing mark and line breaks


@dataclass
class Thought:
    """Whether a reply is within a thought; the marks are None where they are not one token."""

    opening: int | None
    closing: int | None
    inside: bool

    def accept(self, token: int) -> None:
        """Go on by a token."""
        if token in (self.opening, self.closing):
            self.inside = token == self.opening


@dataclass(frozen=True)
class Closers:
    """What brings a reply to its end.

    Args:
        masks: Bool[V] masks of tokens that end a string or a bracket, the best first.
        lengths: Int[V] characters of each token; where nothing can be ended, the longest goes on.
        ends: ids that end a reply.
    """

    masks: Sequence[Tensor]
    lengths: Tensor
    ends: Sequence[int]

    def next(self, allowed: Tensor) -> int:
        """The token of the shortest way to the end."""
        for end in self.ends:
            if bool(allowed[end]):
                return end
        size = min(len(allowed), len(self.lengths))
        for mask in self.masks:
            if bool((closing := allowed[:size] & mask[:size]).any()):
                return int(closing.int().argmax())
        return int((allowed[:size] * (1 + self.lengths[:size])).argmax())


class Matcher:
    """Follows one reply through a grammar.

    Args:
        matcher: llguidance's.
        vocabulary: number of tokens.
        closers: what brings the reply to its end where few tokens are left.
        reserve: with more tokens than this left, there is room for any end.
        thought: the thought before it, if there may be one; it is brought to an end first.
    """

    def __init__(
        self,
        matcher: Any,
        vocabulary: int,
        closers: Closers,
        reserve: int,
        thought: Thought | None = None,
    ) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._reserve, self._closers = reserve, closers
        self._thought = thought or Thought(None, None, False)
        self._bits = np.zeros((1, (vocabulary + 31) // 32), np.int32)
        self._way: list[int] = []  # to the end, from where the reply is; empty if unknown

    def allowed(self, left: int) -> Tensor | None:
        """Bool[V]: which tokens may come next, with this many tokens left."""
        allowed = self._mask(self._matcher)
        mark = self._thought.closing  # not allowed between the bytes of a character
        ending = self._thought.inside and left <= self._reserve + _AFTER_THOUGHT
        if ending and mark is not None and bool(allowed[mark]):
            allowed = torch.zeros_like(allowed)
            allowed[mark] = True
        return allowed

    def in_time(self, token: int, left: int) -> int:
        """The token, if the reply can still end after it; else the next one on the way to its end.

        Args:
            token: one that is allowed.
            left: how many tokens may come, with it.
        """
        if left > self._reserve or self._thought.inside:
            return token
        if self._way[:1] == [token]:
            self._way = self._way[1:]
        elif token not in self._closers.ends:
            ahead = self._matcher.deep_copy()
            ahead.consume_token(token)
            way = self._way_on(ahead, left - 1)
            if not way:
                token, *way = self._way or self._way_on(self._matcher, left) or [token]
            self._way = way
        return token

    def accept(self, token: int, *, thinking: bool = False) -> None:
        """Go on by a token that was allowed; `thinking` tells whether a thought was going on."""
        self._matcher.consume_token(token)
        self._thought.accept(token)

    def _way_on(self, matcher: Any, most: int) -> list[int]:
        """Tokens that bring a reply to its end, the last one included; none if it takes more."""
        way: list[int] = []
        matcher = matcher.deep_copy()
        while len(way) < most:
            way.append(self._closers.next(self._mask(matcher)))
            if way[-1] in self._closers.ends:
                return way
            matcher.consume_token(way[-1])
        return []

    def _mask(self, matcher: Any) -> Tensor:
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(matcher, self._bits, 0)
        if matcher.is_error():
            raise MessageError(
                "a grammar can be followed",
                got=matcher.get_error().splitlines()[0],
                remedy="Simplify the schema.",
            )
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        return torch.from_numpy(bits[: self._vocabulary].astype(np.bool_))


class AfterOpening(Matcher):
    """Everything is allowed until a call is opened; from there on, calls.

    A thought may mention the mark that opens calls.
    """

    def __init__(self, inner: Matcher, opening: int) -> None:
        self._inner, self._opening = inner, opening
        self._inside = False

    def allowed(self, left: int) -> Tensor | None:
        return self._inner.allowed(left) if self._inside else None

    def in_time(self, token: int, left: int) -> int:
        return self._inner.in_time(token, left) if self._inside else token

    def accept(self, token: int, *, thinking: bool = False) -> None:
        if self._inside:
            self._inner.accept(token)
        elif token == self._opening and not thinking:
            self._inside = True


class Banned(Matcher):
    """Everything but one token is allowed."""

    def __init__(self, token: int, vocabulary: int) -> None:
        self._only = torch.ones(vocabulary, dtype=torch.bool)
        self._only[token] = False

    def allowed(self, left: int) -> Tensor | None:
        return self._only

    def in_time(self, token: int, left: int) -> int:
        return token

    def accept(self, token: int, *, thinking: bool = False) -> None:
        return None
