"""The matrices of one adapter in one layer: hidden states in, memory vectors out, and back.

Letters: B batch, T tokens, H state heads, R rank, d hidden width, S = R H. Everything here is
float32, whatever the backbone's dtype: in bfloat16 the reads are off by up to 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_agents.adapter.backbones import Site
from deltamem_agents.adapter.config import CORRECTIONS, DeltaMemConfig
from deltamem_agents.adapter.corrections import Correction, LowRank
from deltamem_agents.adapter.initialise import initialise
from deltamem_agents.adapter.packing import Packed, can_pack, stacked
from deltamem_agents.core.step import StepRule, layer_step

if TYPE_CHECKING:
    from deltamem_agents.core.step_cpu import LayerStep


class Projections(nn.Module):
    """Parameters of δ-mem in one attention layer; named as in the released adapters.

    Args:
        config: what the adapter computes.
        site: the attention module that it corrects; only read, for shapes and initial values.
    """

    def __init__(self, config: DeltaMemConfig, site: Site) -> None:
        super().__init__()
        self.config = config
        self.sizes = {name: site.ports[name].width for name in config.corrections}
        self._in = ["memory_q_proj", "memory_k_proj", "memory_v_proj", "beta_proj"]
        self._bias = ["beta_bias"]
        if not config.couple_lambda:
            self._in.append("lambda_proj")
            self._bias.append("lambda_bias")
        self._widths = list(self.sizes.values())
        self.rule = rule_of(config)
        self.scale = config.alpha / config.rank
        self._out = [f"delta_{name}_proj" for name in self.sizes]
        for name, shape in self._shapes(site.hidden).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=torch.float32)))
        if not any(parameter.is_meta for parameter in self.parameters()):  # to be loaded later
            initialise(dict(self.named_parameters()), config, site)
        self.pack()

    def _shapes(self, hidden: int) -> dict[str, tuple[int, ...]]:
        config = self.config
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self._in:
            shapes[name] = (config.width if name.startswith("memory") else config.gates, hidden)
        for name in self._bias:
            shapes[name] = (config.gates,)
        for name, size in self.sizes.items():
            shapes[f"delta_{name}_proj"] = (size, config.width)
        if config.o_rmsnorm and "o" in self.sizes:
            shapes["delta_o_rmsnorm_weight"] = (self.sizes["o"],)
        if config.trainable_scale:
            shapes["delta_scale_raw"] = (len(CORRECTIONS) if config.scale_per == "head" else 1,)
        return shapes

    def pack(self) -> None:
        """Lay the matrices side by side, where that is possible."""
        self.__dict__.pop("_packed", None)
        self.__dict__.pop("native", None)
        if can_pack(self._parameters):
            packed = Packed(self._parameters, self._in, self._bias, self._out)
            self.__dict__["_packed"] = packed

    @cached_property
    def native(self) -> LayerStep | None:
        """All that this layer does in a decode step as one native call, where there is such."""
        packed: Packed | None = self.__dict__.get("_packed")
        if packed is None or self.config.trainable_scale or self.config.o_rmsnorm:
            return None
        return layer_step(packed.inward, packed.bias, packed.outward, self.rule, self.scale)

    def train(self, mode: bool = True) -> Projections:
        """As for any module; before inference the matrices are packed."""
        super().train(mode)
        if not mode and self.ready() is None:
            self.pack()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Projections:
        """Follow the model to other devices, but not to other dtypes (`model.bfloat16()`)."""

        def moved(tensor: Tensor) -> Tensor:
            there = fn(tensor)
            if there.dtype == tensor.dtype or not there.is_floating_point():
                return there
            return tensor.to(there.device)

        super()._apply(moved, *args, **kwargs)  # type: ignore[no-untyped-call]
        self.pack()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {n: value for n, value in self.__dict__.items() if n not in ("_packed", "native")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.pack()

    def ready(self) -> Packed | None:
        """The packed matrices, if they hold and no parameter wants a gradient."""
        packed: Packed | None = self.__dict__.get("_packed")
        if packed is None or torch.compiler.is_compiling():
            return None
        owner = self._parameters
        if torch.is_grad_enabled() and any(
            p is not None and p.requires_grad for p in owner.values()
        ):
            return None
        return packed if packed.holds(owner) else None

    def project(self, x: Tensor, packed: Packed | None = None) -> Tensor:
        """Memory queries, keys, values and gate logits of hidden states, packed (eqs. 4-5).

        Args:
            x: float32 [B, T, d].
            packed: the matrices, if they are ready.

        Returns:
            [B, T, rule.width], laid out as `core.step.StepRule` says.
        """
        if packed is not None:
            return F.linear(x, packed.inward, packed.bias)
        bias = F.pad(stacked(self._parameters, self._bias), (3 * self.config.width, 0))
        return F.linear(x, stacked(self._parameters, self._in), bias)

    def corrections(
        self, reads: Tensor, dtype: torch.dtype, packed: Packed | None = None
    ) -> Mapping[str, Correction]:
        """Corrections of the projections (eqs. 7-9).

        Args:
            reads: float32 [B, T, S], times alpha / R.
            dtype: of the projections.
            packed: the matrices, if they are ready.
        """
        weight = packed.outward if packed is not None else stacked(self._parameters, self._out)
        plain = not self.config.trainable_scale and not self.config.o_rmsnorm
        if plain and dtype == reads.dtype and not torch.is_grad_enabled():
            parts = torch.split(weight, self._widths)
            return {n: LowRank(reads, part) for n, part in zip(self.sizes, parts, strict=True)}
        together = F.linear(reads, weight)
        if plain:
            return self.split(together if together.dtype == dtype else together.to(dtype))
        named = self.split(together)
        if self.config.trainable_scale:
            factors = (
                torch.sigmoid(self.get_parameter("delta_scale_raw").float()) * self.config.scale_max
            )
            by_head = self.config.scale_per == "head"
            named = {
                name: part * factors[CORRECTIONS.index(name) if by_head else 0]
                for name, part in named.items()
            }
        if self.config.o_rmsnorm and "o" in named:
            weight = self.get_parameter("delta_o_rmsnorm_weight").float()
            eps = self.config.o_rmsnorm_eps
            named["o"] = F.rms_norm(named["o"], (self.sizes["o"],), weight, eps)
        return {name: part.to(dtype) for name, part in named.items()}

    def split(self, together: Tensor) -> dict[str, Tensor]:
        """Corrections by name from [B, T, all their widths]."""
        parts = torch.split(together, self._widths, -1)
        return dict(zip(self.sizes, parts, strict=True))


def rule_of(config: DeltaMemConfig) -> StepRule:
    """How the packed projection of a configuration is read."""
    return StepRule(
        heads=config.heads,
        rank=config.rank,
        gates=config.gates,
        update=config.update,  # type: ignore[arg-type]
        coupled=config.couple_lambda,
        normalize=config.normalize_qk,
    )
