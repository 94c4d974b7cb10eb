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


class Matcher:
    """Follows one reply through a grammar.

    Args:
        matcher: llguidance's.
        vocabulary: number of tokens.
        reserve: with fewer tokens than this left, what was begun is brought to an end.
        closers: Bool[V] masks of the tokens that do so, the best first.
        thought: the thought before it, if there may be one; it is brought to an end first.
    """

    def __init__(
        self,
        matcher: Any,
        vocabulary: int,
        reserve: int = 0,
        closers: Sequence[Tensor] = (),
        thought: Thought | None = None,
    ) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._reserve, self._closers = reserve, closers
        self._thought = thought or Thought(None, None, False)
        self._bits = np.zeros((1, (vocabulary + 31) // 32), np.int32)

    def allowed(self, left: int) -> Tensor | None:
        """Bool[V]: which tokens may come next, with this many tokens left."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits, 0)
        if self._matcher.is_error():
            raise MessageError(
                "a grammar can be followed",
                got=self._matcher.get_error().splitlines()[0],
                remedy="Simplify the schema.",
            )
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: self._vocabulary].astype(np.bool_))
        if self._thought.inside:
            mark = self._thought.closing  # not allowed between the bytes of a character
            if left <= self._reserve + _AFTER_THOUGHT and mark is not None and bool(allowed[mark]):
                allowed = torch.zeros_like(allowed)
                allowed[mark] = True
        elif left <= self._reserve:
            for mask in self._closers:
                size = min(len(mask), len(allowed))
                if bool((closing := allowed[:size] & mask[:size]).any()):
                    return closing
        return allowed

    def accept(self, token: int, *, thinking: bool = False) -> None:
        """Go on by a token that was allowed; `thinking` tells whether a thought was going on."""
        self._matcher.consume_token(token)
        self._thought.accept(token)


class AfterOpening(Matcher):
    """Everything is allowed until a call is opened; from there on, calls.

    A thought may mention the mark that opens calls.
    """

    def __init__(self, inner: Matcher, opening: int) -> None:
        self._inner, self._opening = inner, opening
        self._inside = False

    def allowed(self, left: int) -> Tensor | None:
        return self._inner.allowed(left) if self._inside else None

    def accept(self, token: int, *, thinking: bool = False) -> None:
        if self._inside:
            self._inner.accept(token)
        elif token == self._opening and not thinking:
            self._inside = True


class Banned(Matcher):
    """Everything but one token is allowed."""

    def __init__(self, token: int, vocabulary: int) -> None:
        self._mask = torch.ones(vocabulary, dtype=torch.bool)
        self._mask[token] = False

    def allowed(self, left: int) -> Tensor | None:
        return self._mask

    def accept(self, token: int, *, thinking: bool = False) -> None:
        return None
