"""Our format: `deltamem_config.json` and `deltamem_adapter.safetensors`, under one fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltamem_agents.adapter.config import DeltaMemConfig
from deltamem_agents.adapter.model import fingerprint
from deltamem_agents.adapter.official import replacing
from deltamem_agents.errors import FileFormatError

CONFIG = "deltamem_config.json"
WEIGHTS = "deltamem_adapter.safetensors"
FORMAT = "deltamem-adapter"
VERSION = 1


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse NaN, infinity and whole numbers.

    Raises:
        FileFormatError: in one of them.
    """
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise FileFormatError(
                f"{key} holds finite floating point numbers",
                got=tensor.dtype,
                remedy="Take the adapter of an earlier checkpoint, or fetch it again.",
            )


def write_ours(
    folder: Path, config: DeltaMemConfig, tensors: dict[str, Tensor], backbone: dict[str, Any]
) -> None:
    """Write the two files of our format."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {n: t.detach().to("cpu", torch.float32).clone() for n, t in tensors.items()}
    about = {
        "format": FORMAT,
        "format_version": VERSION,
        "fingerprint": fingerprint(config, plain),
        "backbone": backbone,
        "adapter": config.canonical(),
    }
    with replacing(folder / WEIGHTS) as path:
        save_file(plain, path, metadata={"format": "pt"})
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_ours(folder: Path) -> tuple[DeltaMemConfig, dict[str, Tensor], dict[str, Any]]:
    """Read the two files of our format.

    Raises:
        FileFormatError: damaged, of a later version, or not the pair that was written together.
    """
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kept = about["format"], about["format_version"]
        values, mark = dict(about["adapter"]), about["fingerprint"]
        backbone = dict(about["backbone"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileFormatError(
            f"{CONFIG} describes an adapter",
            got=repr(error),
            remedy="Fetch or save the adapter again.",
        ) from error
    if kept != (FORMAT, VERSION):
        raise FileFormatError(
            f"{CONFIG} has format {FORMAT!r} and format_version {VERSION}",
            got=kept,
            remedy="Update deltamem-agents, or save the adapter again with this version.",
        )
    config = DeltaMemConfig.from_canonical(values)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError) as error:
        raise FileFormatError(
            f"{WEIGHTS} is a safetensors file",
            got=str(error),
            remedy="Fetch or save the adapter again.",
        ) from error
    if fingerprint(config, tensors) != mark:
        raise FileFormatError(
            f"{WEIGHTS} and {CONFIG} were written together and not changed since",
            got=str(folder),
            remedy="Fetch or save the adapter again.",
        )
    return config, tensors, backbone
