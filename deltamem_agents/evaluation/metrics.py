"""Scores of answers, and how sure they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


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


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval, by resampling whole episodes (percentile bootstrap).

    Answers of one episode hang together, so episodes are drawn, not answers. With a single episode
    there is nothing to draw: the interval is NaN.

    Attributes:
        groups: the values of each episode.
    """

    groups: tuple[tuple[float, ...], ...]

    @property
    def total(self) -> int:
        """How many values."""
        return sum(map(len, self.groups))

    @property
    def value(self) -> float:
        """The mean of all values; NaN of nothing."""
        return sum(map(sum, self.groups)) / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The same episodes give the same interval: the resampling is seeded."""
        if len(self.groups) < 2:
            return math.nan, math.nan
        sums = np.array([sum(group) for group in self.groups])
        sizes = np.array([len(group) for group in self.groups])
        count = len(self.groups)
        drawn = np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count))
        means = sums[drawn].sum(1) / np.maximum(sizes[drawn].sum(1), 1)
        low, high = np.quantile(means, (0.025, 0.975))
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.2f}, {high:.2f}]"


def summarise(groups: Sequence[Sequence[float]]) -> Share | Mean:
    """A share where every value is 0 or 1, a mean otherwise.

    Args:
        groups: the values of each episode.
    """
    kept = tuple(tuple(group) for group in groups if group)
    values = [value for group in kept for value in group]
    if all(value in (0.0, 1.0) for value in values):
        return Share.of([value == 1.0 for value in values])
    return Mean(kept)
