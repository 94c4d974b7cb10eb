"""Names of weights: sha256 of what is in the files, or in the tensors."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from deltamem_agents.errors import ModelNotFoundError
from deltamem_agents.runtime.messages import digest_of


def file_fingerprint(folder: Path) -> str:
    """Name the weights of a model's folder (hex sha256); a file that has not changed is read once.

    Raises:
        ModelNotFoundError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotFoundError(
            "a model's folder holds its weights as safetensors",
            got=str(folder),
            remedy="Save the model again with save_pretrained.",
        )
    return digest_of([_hash_file(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files])


@lru_cache(maxsize=256)
def _hash_file(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_fingerprint(model: Any) -> str:
    """Name the weights of a loaded model (hex sha256), its adapter left out."""
    names = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "delta_mem" not in name:
            data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            names.update(name.encode() + hashlib.sha256(data).digest())
    return names.hexdigest()
