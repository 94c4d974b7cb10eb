"""A training's whole state on disk, so that it can be killed at any moment and go on.

Tensors go to one safetensors file, everything else to its JSON header; the file is replaced in one
step, so there is always a whole one. No pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from deltamem_agents.errors import FileFormatError

FORMAT = "deltamem-training/1"


def save_snapshot(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer], extra: Mapping[str, Any]
) -> None:
    """Write weights, optimizer states, torch's random state and `extra` (JSON values)."""
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, entry in optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                held = value if isinstance(value, Tensor) else torch.tensor(value)
                tensors[f"optimizer/{number}/{index}/{key}"] = held
    tensors["random"] = torch.get_rng_state()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(contiguous, fresh, metadata={"format": FORMAT, "extra": json.dumps(dict(extra))})
    os.replace(fresh, path)


def load_snapshot(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Put everything back where it was and return `extra`.

    Raises:
        FileFormatError: the file is not a whole snapshot of this model and these optimizers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            "a training snapshot is a whole safetensors file",
            got=str(path),
            remedy="Delete it to start this stage again.",
        ) from error
    wanted = {f"model/{name}" for name, _ in model.named_parameters()}
    found = {name for name in tensors if name.startswith("model/")}
    if metadata.get("format") != FORMAT or wanted != found:
        raise FileFormatError(
            "a training snapshot holds the parameters of the model being trained",
            got=sorted(wanted ^ found)[:4] or metadata.get("format"),
            remedy="Delete it to start this stage again.",
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    for number, optimizer in enumerate(optimizers):
        _restore(optimizer, f"optimizer/{number}/", tensors)
    torch.set_rng_state(tensors["random"])
    extra: dict[str, Any] = json.loads(metadata["extra"])
    return extra


def _restore(optimizer: Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
