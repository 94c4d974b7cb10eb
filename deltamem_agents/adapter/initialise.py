"""Initial values of an adapter, as in the released code."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_agents.adapter.backbones import Site
from deltamem_agents.adapter.config import DeltaMemConfig

NORM_EPS = 1e-6


@torch.no_grad()
def initialise(parameters: dict[str, nn.Parameter], config: DeltaMemConfig, site: Site) -> None:
    """Fill an adapter's parameters.

    Args:
        parameters: by released name; changed in place.
        config: says how.
        site: for `base_slice`, the projections whose columns are taken.
    """
    for name, parameter in parameters.items():
        if name.startswith("memory_"):
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
        elif name.startswith("delta_") and name.endswith("_proj"):
            _output(parameter, config, site, name.removeprefix("delta_").removesuffix("_proj"))
    parameters["beta_proj"].zero_()
    parameters["beta_bias"].fill_(config.beta_bias)
    if "lambda_proj" in parameters:
        parameters["lambda_proj"].zero_()
        parameters["lambda_bias"].fill_(-config.beta_bias)
    if "delta_o_rmsnorm_weight" in parameters:
        parameters["delta_o_rmsnorm_weight"].fill_(1.0)
    if "delta_scale_raw" in parameters:
        share = min(max(config.scale_init / config.scale_max, 1e-4), 1 - 1e-4)
        parameters["delta_scale_raw"].fill_(math.log(share / (1 - share)))


def _output(weight: Tensor, config: DeltaMemConfig, site: Site, name: str) -> None:
    if config.init == "random":
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        weight.mul_(config.init_scale)
        return
    weight.zero_()
    if config.init != "zero":
        base = site.weight(name)
        columns = config.rank if config.init == "base_slice" else config.init_width
        columns = min(columns, config.rank, base.shape[1])
        part = F.normalize(base[:, :columns].float(), dim=0, eps=NORM_EPS)
        weight[:, :columns] = (part * config.init_scale).to(weight.device)
