"""What `generate` does to a batch, as it says itself.

It repeats each prompt for beams and samples, and goes on feeding rows that have ended while others
have not, with an attention mask that says nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, StoppingCriteriaList
from transformers.cache_utils import Cache

from deltamem_agents.adapter.backbones import find_decoder
from deltamem_agents.adapter.flight import FLIGHT
from deltamem_agents.adapter.overrides import Override
from deltamem_agents.errors import UnsupportedModelError


@dataclass(eq=False)
class Generation:
    """A `generate` that is running.

    Args:
        decoder: of the model that generates.
        repeats: how many rows each prompt has become.
        cache: that it goes on with; the one of its first forward, which comes before anybody whom
            it asks in between can make one.
        finished: Bool[B], the rows that have ended; None before the first token. With beams there
            is no such thing: rows that end leave the batch. Only the beams of a prompt that has
            all its texts, while another prompt of the batch has not, go on unseen, and go on
            writing.
    """

    decoder: nn.Module
    repeats: int = 1
    cache: Cache | None = None
    finished: Tensor | None = None

    def repeats_of(self, sessions: int | None, rows: int) -> int:
        """How often the memories of so many sessions are repeated for a batch of so many rows."""
        return self.repeats if sessions is not None and sessions * self.repeats == rows else 1

    def unfinished(self, tokens: Tensor) -> Tensor | None:
        """Bool[B, 1], False for rows that have ended; None where none can have.

        Args:
            tokens: of a forward call, [B, T, ..]; of a decode step if T is 1.

        Raises:
            UnsupportedModelError: these are not the rows that end.
        """
        if self.finished is None or tokens.shape[1] != 1:
            return None
        if len(self.finished) != tokens.shape[0]:
            raise UnsupportedModelError(
                "generate decodes the rows that its stopping criteria are asked about, "
                f"{len(self.finished)}",
                got=tokens.shape[0],
                remedy="Use greedy decoding, sampling, beams, or assisted decoding.",
            )
        if tokens.shape[0] == 1 and not in_step():
            return None  # when the only row has ended, generate ends
        return ~self.finished.to(tokens.device)[:, None]


class Watched(StoppingCriteriaList):  # type: ignore[misc]
    """The stopping criteria of a `generate`; what they decide is noted."""

    def __init__(self, criteria: StoppingCriteriaList, generation: Generation) -> None:
        super().__init__(criteria)
        self.generation = generation

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row ends with its newest token, Bool[B]."""
        ended: Tensor = super().__call__(input_ids, scores, **kwargs)
        before = self.generation.finished
        self.generation.finished = ended if before is None else before | ended
        return ended


class Generate(Override):
    """In place of a model's `generate`: its forward calls know what they are part of."""

    name = "generate"

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Generate."""
        outer, FLIGHT.generation = FLIGHT.generation, Generation(find_decoder(self.module))
        try:
            return self.__wrapped__(*args, **kwargs)
        finally:
            FLIGHT.generation = outer


class StoppingCriteria(Override):
    """In place of the method by which `generate` makes its stopping criteria, all settings read."""

    name = "_get_stopping_criteria"

    def run(self, generation_config: Any, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        """Make the criteria, watched."""
        criteria = self.__wrapped__(generation_config, *args, **kwargs)
        generation = FLIGHT.generation
        if generation is None or generation.decoder is not find_decoder(self.module):
            raise UnsupportedModelError(
                "generate is called as a method of the model",
                got=f"{type(self.module).__name__}.generate, called on its class",
                remedy="Call model.generate(...).",
            )
        if generation_config.assistant_early_exit is not None:
            raise UnsupportedModelError(
                "every layer with a memory reads every token",
                got=f"assistant_early_exit={generation_config.assistant_early_exit}",
                remedy="Use prompt_lookup_num_tokens, or an assistant_model of its own.",
            )
        beams = generation_config.num_beams
        generation.repeats = max(beams, generation_config.num_return_sequences)
        return criteria if beams > 1 else Watched(criteria, generation)


OVERRIDES = (Generate, StoppingCriteria)


def generators_of(model: nn.Module, decoder: nn.Module) -> list[nn.Module]:
    """The modules in a model whose `generate` runs a decoder: one may call that of another."""
    found = [m for m in model.modules() if isinstance(m, GenerationMixin)]
    return [m for m in found if _decoder_of(m) is decoder]


def _decoder_of(model: nn.Module) -> nn.Module | None:
    try:
        return find_decoder(model)
    except UnsupportedModelError:  # an encoder, or a part that has no list of layers
        return None


def in_step() -> bool:
    """Whether processes generate in step, each until the last has ended."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def running(decoder: nn.Module, cache: Cache | None) -> Generation | None:
    """The `generate` that a forward of this decoder with this cache is part of, or None."""
    generation = FLIGHT.generation
    if generation is None or generation.decoder is not decoder or cache is None:
        return None
    if generation.cache is None:
        generation.cache = cache
    return generation if generation.cache is cache else None
