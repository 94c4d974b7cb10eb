"""MLP memory: a small MLP beside the backbone that has learnt what the told text says next.

After "MLP Memory" (Wei and others 2025): the MLP takes a hidden state of the backbone and gives a
distribution over the next token; it is trained to imitate a kNN-LM's retrieval over the told text
(Khandelwal and others 2020) beside the plain next-token loss, and its distribution is mixed with
the backbone's. Here it reads the last hidden state, and is trained for each conversation anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_agents.adapter import MemoryCall
from deltamem_agents.evaluation.frame import Cost, Episode
from deltamem_agents.evaluation.subjects import Asked
from deltamem_agents.runtime.engine import Engine

_ALONE = threading.Lock()


@dataclass(frozen=True)
class MlpSettings:
    """How it learns and how it is mixed in.

    Args:
        layers: residual blocks.
        steps: of training, each on the whole text.
        rate: learning rate (AdamW).
        imitate: weight of the retriever's distribution; the rest is the next-token loss.
        neighbours: k of the retriever.
        temperature: of its distances, which are divided by their mean first.
        share: of the mixture that is the MLP's.
        block: most tokens read at once.
    """

    layers: int = 2
    steps: int = 150
    rate: float = 2e-3
    imitate: float = 0.5
    neighbours: int = 8
    temperature: float = 0.2
    share: float = 0.5
    block: int = 512


class Mlp(nn.Module):
    """Hidden state [N, d] -> logits [N, V], by residual blocks and a head of its own.

    Args:
        width: d.
        vocabulary: V.
        layers: number of blocks.
    """

    def __init__(self, width: int, vocabulary: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(),
                nn.Linear(4 * width, width),
            )
            for _ in range(layers)
        )  # fmt: skip
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits."""
        for block in self.blocks:
            hidden = hidden + block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def neighbours_of(
    hidden: Tensor, following: Tensor, settings: MlpSettings
) -> tuple[Tensor, Tensor]:
    """What a kNN-LM over the text would say: weights and tokens [N, k] of each position.

    Args:
        hidden: [N, d].
        following: the token behind each, [N].
        settings: see there. A position is no neighbour of itself.
    """
    distance = torch.cdist(hidden, hidden).square()
    distance = distance / distance.mean().clamp(min=1e-9)
    distance.fill_diagonal_(float("inf"))
    count = min(settings.neighbours, len(hidden) - 1)
    near = distance.topk(count, largest=False)
    return torch.softmax(-near.values / settings.temperature, -1), following[near.indices]


def train(hidden: Tensor, following: Tensor, vocabulary: int, settings: MlpSettings) -> Mlp:
    """Train an MLP on one text.

    Args:
        hidden: states of the backbone, float32 [N, d], N at least 2.
        following: the token behind each, [N].
        vocabulary: V.
        settings: see there.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = Mlp(hidden.shape[-1], vocabulary, settings.layers).to(hidden.device)
    weights, tokens = neighbours_of(hidden, following, settings)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=settings.rate)
    for _ in range(settings.steps):
        told = torch.log_softmax(mlp(hidden), -1)
        plain = F.nll_loss(told, following)
        retriever = -(weights * told.gather(1, tokens)).sum(-1).mean()
        loss = settings.imitate * retriever + (1 - settings.imitate) * plain
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return mlp.eval()


@dataclass(frozen=True)
class MlpMemory:
    """A subject that answers with nothing in view, an MLP mixed into the next-token distribution.

    Args:
        engine: answers, without a memory.
        settings: how it learns and is mixed in.
    """

    engine: Engine
    settings: MlpSettings = MlpSettings()
    name: str = "mlp"
    title: str = "MLP memory"
    parallel: bool = False

    @contextmanager
    def hold(self, episode: Episode, other: Episode) -> Iterator[Asked]:
        """Train, mix in, take off; see `frame.Subject`."""
        with _ALONE:
            began = time.perf_counter()
            hidden, following = self._states(episode)
            if len(hidden) < 2:  # nothing to learn from
                yield Asked(self.engine, None, lambda _: ())
                return
            head = self.engine.model.get_output_embeddings()
            mlp = train(hidden, following, head.weight.shape[0], self.settings)
            count = sum(parameter.numel() for parameter in mlp.parameters())
            handle = head.register_forward_hook(_mixture(mlp, self.settings.share))
            try:
                cost = Cost(count, 4 * count, len(hidden) + 1, time.perf_counter() - began)
                yield Asked(self.engine, None, lambda _: (), cost)
            finally:
                handle.remove()

    @torch.no_grad()
    def _states(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Last hidden states [N, d] of the told text, and the token behind each [N]."""
        ids = [i for part in self.engine.template.render(episode.told) for i in part.ids]
        device, states, tokens = self.engine.runner.device, [], []
        for start in range(0, len(ids), self.settings.block):
            part = torch.tensor([ids[start : start + self.settings.block]], device=device)
            seen: list[Tensor] = []
            head = self.engine.model.get_output_embeddings()
            handle = head.register_forward_hook(lambda _, given, out: seen.append(given[0]))  # noqa: B023
            try:
                call = MemoryCall(write=False)
                self.engine.model(input_ids=part, use_cache=False, delta_mem=call)
            finally:
                handle.remove()
            states.append(seen[0][0, :-1].float())
            tokens.append(part[0, 1:])
        if not states:
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
        return torch.cat(states), torch.cat(tokens)


def _mixture(mlp: Mlp, share: float) -> Any:
    """log(share p_mlp + (1 - share) p_backbone) in place of the backbone's logits."""

    def hook(module: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        with torch.no_grad():
            own = torch.softmax(logits.float(), -1)
            other = torch.softmax(mlp(given[0].float()), -1)
            return torch.log(share * other + (1 - share) * own).to(logits.dtype)

    return hook
