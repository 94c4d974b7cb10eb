"""Scores of answers, and how sure they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


def says(answer: str, value: str) -> bool:
    """Whether an answer holds a value, as whole words and in any case."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", answer, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Share:
    """A share of right answers with its 95 % interval.

    Attributes:
        right: how many were right.
        total: of how many.
    """

    right: int
    total: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Share:
        """Count."""
        return cls(sum(outcomes), len(outcomes))

    @property
    def value(self) -> float:
        """The share itself; NaN of nothing."""
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, which takes answers as independent of each other."""
        if not self.total:
            return math.nan, math.nan
        z = 1.959963984540054
        share, spread = self.value, z * z / self.total
        centre = share + spread / 2
        half = z * math.sqrt(share * (1 - share) / self.total + spread / (4 * self.total))
        low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
        return max(0.0, low), min(1.0, high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.2f}, {high:.2f}]"
