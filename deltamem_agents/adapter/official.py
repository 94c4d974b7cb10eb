"""The released adapters' format: `delta_mem_config.json` and `delta_mem_adapter.pt`."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.adapter.config import CORRECTIONS, DeltaMemConfig
from deltamem_agents.errors import FileFormatError, UnsupportedModelError

CONFIG = "delta_mem_config.json"
WEIGHTS = "delta_mem_adapter.pt"

#: The released name of each of our fields.
NAMES = {
    "rank": "rank", "heads": "num_state_heads", "alpha": "alpha", "corrections": "delta_heads",
    "layers": "target_layers", "update": "state_update_mode",
    "write": "memory_write_granularity", "couple_lambda": "couple_lambda",
    "rankwise_gates": "rankwise_gates", "normalize_qk": "normalize_qk",
    "beta_bias": "beta_bias_init", "init": "output_init", "init_scale": "online_gain",
    "init_width": "base_slice_ref_width", "o_rmsnorm": "delta_o_rmsnorm",
    "o_rmsnorm_eps": "delta_o_rmsnorm_eps", "trainable_scale": "trainable_delta_scale",
    "scale_init": "delta_scale_init", "scale_max": "delta_scale_max",
    "scale_per": "delta_scale_granularity",
}  # fmt: skip
WRITES = {"token": "token", "message": "message_mean", "sentence": "sentence_mean"}

#: Keys that describe experiments no longer in the released code; only this value is legal.
ARCHIVED: dict[str, Any] = {
    "num_memory_partitions": 1, "num_global_memory_partitions": 0,
    "memory_partition_routing": "soft", "memory_partition_basis": "shared",
    "tie_memory_partition_read_write": False, "memory_partition_read_mode": "softmax",
    "slot_read_top_k": 0, "global_memory_mode": "shared_rw", "global_memory_read_top_k": 0,
    "global_memory_merge_mode": "gated_residual", "memory_reader_layers": [],
    "memory_readout_mode": "delta", "memory_write_source": "learned_hidden",
    "memory_write_proposals_per_message": 2, "synthetic_memory_slots": 1,
    "latent_memory_layers": [], "delta_scale_parameterization": "alpha_over_rank",
}  # fmt: skip

#: Keys without effect while the archived ones have their value: any is read, this one written.
WITHOUT_EFFECT: dict[str, Any] = {
    "memory_partition_sigmoid_gate_bias_init": -2.0, "global_memory_gate_bias_init": -2.0,
    "global_memory_read_logit_bias": 0.0, "memory_reader_hidden_size": 1024,
    "memory_reader_residual_scale": 0.1, "memory_reader_read_only": True,
    "latent_memory_hidden_size": 1024, "latent_memory_residual_scale": 0.1,
    "latent_memory_slots": 4, "latent_memory_init_std": 0.002, "latent_gate_init": 0.01,
    "target_modules": ["self_attn"],
}  # fmt: skip


def config_from_official(values: Mapping[str, Any]) -> DeltaMemConfig:
    """Our configuration of a released one.

    Raises:
        FileFormatError: keys are missing or unknown, or an archived option is in use.
        ConfigError: a value breaks its rule.
    """
    known = {*NAMES.values(), *ARCHIVED, *WITHOUT_EFFECT}
    if unknown := sorted(set(values) - known):
        raise FileFormatError(
            f"{CONFIG} has the released keys only",
            got=unknown,
            remedy="Remove them, or fetch the adapter again.",
        )
    if missing := sorted(known - set(values)):
        raise FileFormatError(
            f"{CONFIG} has all {len(known)} released keys",
            got=missing,
            remedy="Add them as in the released adapters, or fetch this one again.",
        )
    for key, only in ARCHIVED.items():
        if values[key] != only:
            raise FileFormatError(
                f"{key} is {only!r} in {CONFIG}",
                got=values[key],
                remedy=f"Set it to {only!r}: others belong to experiments never released.",
            )
    ours = {name: values[theirs] for name, theirs in NAMES.items()}
    ours["layers"] = ours["layers"] or None
    writes = {theirs: name for name, theirs in WRITES.items()}
    ours["write"] = writes.get(str(ours["write"]), ours["write"])
    return DeltaMemConfig.from_canonical(ours)


def config_to_official(config: DeltaMemConfig) -> dict[str, Any]:
    """The released form of our configuration, all keys."""
    values = {theirs: config.canonical()[name] for name, theirs in NAMES.items()}
    values["target_layers"] = values["target_layers"] or []
    values["memory_write_granularity"] = WRITES[config.write]
    return {**values, **ARCHIVED, **WITHOUT_EFFECT}


def read_official(folder: Path) -> tuple[DeltaMemConfig, dict[str, Tensor]]:
    """Configuration and tensors of a released adapter.

    Raises:
        FileFormatError: not such an adapter, or a damaged one.
    """
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{CONFIG} is readable JSON", got=str(error), remedy="Fetch the adapter again."
        ) from error
    if not isinstance(values, dict):
        raise FileFormatError(
            f"{CONFIG} holds an object",
            got=type(values).__name__,
            remedy="Fetch the adapter again.",
        )
    config = config_from_official(values)
    try:
        tensors = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise FileFormatError(
            f"{WEIGHTS} is a file of tensors", got=str(error), remedy="Fetch the adapter again."
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()
    ):
        raise FileFormatError(
            f"{WEIGHTS} holds a dictionary of tensors",
            got=type(tensors),
            remedy="Fetch the adapter again.",
        )
    return config, tensors


def write_official(
    folder: Path,
    config: DeltaMemConfig,
    tensors: Mapping[str, Tensor],
    widths: Mapping[str, Mapping[str, int]],
) -> None:
    """Write an adapter as the released code does, with zeros where no correction is made.

    Args:
        folder: where to; made if it is not there.
        config: the adapter's configuration.
        tensors: its tensors by released name.
        widths: for each attention path the output width of q, k, v and o.

    Raises:
        UnsupportedModelError: a layer has no such projections, which that format needs.
    """
    paths = {name.rpartition(".")[0] for name in tensors}
    lacking = [p for p in sorted(paths) if set(widths.get(p, ())) != set(CORRECTIONS)]
    if lacking:
        raise UnsupportedModelError(
            "the released format has q, k, v and o projections in every layer",
            got=f"{lacking[0]} with {list(widths.get(lacking[0], ()))}",
            remedy="Leave format out: ours takes any layers.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    complete = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in tensors.items()}
    for path in paths:
        for name in CORRECTIONS:
            key = f"{path}.delta_{name}_proj"
            if key not in complete:
                complete[key] = torch.zeros(widths[path][name], config.width)
    with replacing(folder / WEIGHTS) as temporary:
        torch.save({name: t.clone() for name, t in complete.items()}, temporary)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config_to_official(config), indent=2), encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
