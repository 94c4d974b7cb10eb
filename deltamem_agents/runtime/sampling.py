"""How the next token is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltamem_agents.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the likeliest token; above, logits are divided by it.
        top_p: keep the likeliest tokens that together have at least this probability.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        repetition_penalty: divide positive and multiply negative logits of tokens in view by it.
        seed: makes sampling repeatable; None draws a fresh one for each call.
        max_tokens: most tokens of a reply; None for what the positions allow.

    Raises:
        ConfigError: a value breaks its rule.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigError(
                "temperature is at least 0",
                got=self.temperature,
                remedy="Pass 0 for greedy decoding.",
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(
                "top_p is above 0 and at most 1",
                got=self.top_p,
                remedy="Pass 1 to keep every token.",
            )
        if self.top_k < 0:
            raise ConfigError(
                "top_k is at least 0", got=self.top_k, remedy="Pass 0 to keep every token."
            )
        if not self.repetition_penalty > 0:
            raise ConfigError(
                "repetition_penalty is above 0",
                got=self.repetition_penalty,
                remedy="Pass 1 for none.",
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(
                "max_tokens is at least 1",
                got=self.max_tokens,
                remedy="Leave it out to end with the window.",
            )


class Sampler:
    """Chooses the tokens of one reply.

    Args:
        sampling: how.
        seen: ids in view, for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, seen: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self._penalised = sampling.repetition_penalty != 1.0
        self._seen = set(seen) if self._penalised else set()
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: Tensor, allowed: Tensor | None = None) -> int:
        """Choose a token.

        Args:
            logits: [V], any float dtype and device.
            allowed: Bool[V] on the CPU; other tokens are impossible.
        """
        scores = logits.detach().to("cpu", torch.float32)
        if self._penalised:
            scores = self._penalise(scores)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        # NumPy's argmax takes a tenth of the time of torch's.
        greedy = self.sampling.temperature == 0
        chosen = int(scores.numpy().argmax()) if greedy else self._draw(scores)
        if self._penalised:
            self._seen.add(chosen)
        return chosen

    def _penalise(self, scores: Tensor) -> Tensor:
        index = torch.tensor(sorted(self._seen), dtype=torch.long)
        values = scores[index]
        penalty = self.sampling.repetition_penalty
        values = torch.where(values > 0, values / penalty, values * penalty)
        return scores.index_copy(0, index, values)

    def _draw(self, scores: Tensor) -> int:
        order = (scores / self.sampling.temperature).sort(descending=True, stable=True)
        values, tokens = order.values, order.indices
        if self.sampling.top_k:
            values = values[: self.sampling.top_k]
        weights = values.softmax(0)
        before = weights.cumsum(0) - weights  # a token stays while those above it fall short
        weights = weights.masked_fill(before >= self.sampling.top_p, 0.0)
        place = torch.multinomial(weights, 1, generator=self._generator)
        return int(tokens[place])
