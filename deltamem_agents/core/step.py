"""One decode step of a memory in one native call: gates, read and write, for inference.

While a model decodes, a layer's memory works on one token at a time: a few hundred
multiplications, spread over a dozen tensor operations of several microseconds each. `memory_step`
does them in one compiled function. It has no gradient; `unpack` followed by
`core.scan.delta_scan` computes the same with one, and is what the compiled forms are tested
against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from deltamem_agents.core.scan import delta_scan
from deltamem_agents.errors import ConfigError, StateError

if TYPE_CHECKING:
    from deltamem_agents.core.step_cpu import LayerStep

NORM_EPS = 1e-6
UPDATES = ("standard", "lambda_outside", "no_lambda")

_Step = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StepRule:
    """How a packed projection is read. Letters: H heads, R rank, S = H R, G gates.

    The projection is `q | k | v | beta | lambda`: S, S, S, G and, unless coupled, G columns; the
    gates' bias is in it.

    Attributes:
        heads: state heads H.
        rank: R.
        gates: G; S for a gate a row, H for one a head.
        update: "standard" (keep lambda, erase beta, write beta), "lambda_outside" (erase
            lambda beta) or "no_lambda" (keep 1).
        coupled: lambda is 1 - beta and has no columns of its own.
        normalize: q and k go through tanh and are scaled to length 1 (equation 4).
    """

    heads: int
    rank: int
    gates: int
    update: Literal["standard", "lambda_outside", "no_lambda"] = "standard"
    coupled: bool = True
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.heads < 1 or self.rank < 1:
            raise ConfigError(
                "heads and rank are at least 1",
                got=(self.heads, self.rank),
                remedy="Pass 1 or more.",
            )
        if self.gates not in (self.heads, self.heads * self.rank):
            raise ConfigError(
                "there is a gate a head or a gate a row",
                got=self.gates,
                remedy="Pass gates=heads, or gates=heads * rank.",
            )
        if self.update not in UPDATES:
            raise ConfigError(
                f"update is one of {UPDATES}", got=self.update, remedy="Choose one of these."
            )

    @property
    def width(self) -> int:
        """Columns of the packed projection."""
        return 3 * self.heads * self.rank + self.gates * (1 if self.coupled else 2)


def memory_step(
    projected: Tensor, state: Tensor, rule: StepRule, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Gates, read and write of one token (equations 4-6 and 12), without gradients.

    Args:
        projected: the packed projection [B, rule.width], float32.
        state: the memory before the token, float32 [B, H, R, R]; it is left alone.
        rule: how the projection is read.
        scale: factor on the reads.

    Returns:
        reads [B, H, R], times `scale`, and the memory after the token [B, H, R, R].

    Raises:
        StateError: a shape, dtype or device is not as above, or a gradient is wanted.
    """
    batch = projected.shape[0]
    if projected.shape != (batch, rule.width) or state.shape != (
        batch, rule.heads, rule.rank, rule.rank
    ):  # fmt: skip
        raise StateError(
            f"projection and state have the shapes of {rule}",
            got=(tuple(projected.shape), tuple(state.shape)),
            remedy="Make both for this rule: [B, rule.width] and [B, heads, rank, rank].",
        )
    if projected.dtype != torch.float32 or state.dtype != torch.float32:
        raise StateError(
            "the memory is computed in float32",
            got=(projected.dtype, state.dtype),
            remedy="Call .float() on both.",
        )
    if projected.device != state.device:
        raise StateError(
            "projection and state are on one device",
            got=(str(projected.device), str(state.device)),
            remedy="Move one of them with .to(device).",
        )
    if torch.is_grad_enabled() and (projected.requires_grad or state.requires_grad):
        raise StateError(
            "memory_step has no gradient",
            got="a tensor that requires one",
            remedy="Use unpack and delta_scan, or torch.no_grad().",
        )
    return _behind_the_door(projected.device.type)(projected, state, rule, scale)


@cache
def _behind_the_door(device: str) -> _Step:
    """The one place where a kernel is chosen."""
    if device == "cpu" and find_spec("numba") is not None:
        from deltamem_agents.core.step_cpu import step_cpu

        return step_cpu
    if device == "cuda" and find_spec("triton") is not None:
        from deltamem_agents.core.step_triton import step_triton

        return step_triton
    return step_torch


def layer_step(
    inward: Tensor, bias: Tensor, outward: Tensor, rule: StepRule, scale: float
) -> LayerStep | None:
    """A layer's whole part in a decode step as one native call, or None where there is none.

    Arguments as of `core.step_cpu.LayerStep`.
    """
    if inward.device.type != "cpu" or find_spec("numba") is None:
        return None
    from deltamem_agents.core.step_cpu import LayerStep

    return LayerStep(inward, bias, outward, rule, scale)


def step_torch(
    projected: Tensor, state: Tensor, rule: StepRule, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`memory_step` by `unpack` and `delta_scan`, on any device; differentiable."""
    reads, after = delta_scan(*unpack(projected.unsqueeze(1), rule), state)
    return reads.squeeze(1) * scale, after


def unpack(
    projected: Tensor, rule: StepRule
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The six inputs of the scan from a packed projection (equations 4-5).

    Args:
        projected: [B, T, rule.width].
        rule: how the projection is read.

    Returns:
        q, k, v, keep, erase, write, each [B, T, H, R].
    """
    lead, size = projected.shape[:2], rule.heads * rule.rank
    parts = projected[..., : 3 * size].reshape(*lead, 3, rule.heads, rule.rank)
    q, k, v = parts.unbind(-3)
    if rule.normalize:
        q, k = (normalize(x.tanh(), dim=-1, eps=NORM_EPS) for x in (q, k))
    gates = torch.sigmoid(projected[..., 3 * size :])
    gates = gates.reshape(*lead, 1 if rule.coupled else 2, rule.heads, -1)
    gates = gates.expand(*gates.shape[:-1], rule.rank)
    beta = gates[..., 0, :, :]
    if rule.update == "no_lambda":
        keep = torch.ones_like(beta)
    else:
        keep = 1 - beta if rule.coupled else gates[..., 1, :, :]
    erase = keep * beta if rule.update == "lambda_outside" else beta
    return q, k, v, keep, erase, beta
