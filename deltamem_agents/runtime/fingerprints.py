"""Names of what makes a memory: sha256 of weights, of the model's shape, and of its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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


# What of a configuration no hidden state depends on, or what the weights' names say already.
_ASIDE = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "initializer_range",
    "pad_token_id", "quantization_config", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


def config_fingerprint(config: Any) -> str:
    """Name what a model computes with its weights (hex sha256): heads, rotary base, windows, ..."""
    fields = config.to_diff_dict()
    return digest_of({name: value for name, value in fields.items() if name not in _ASIDE})


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Name how a fast tokenizer turns text into ids (hex sha256)."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest_of([parts[n] for n in ("normalizer", "pre_tokenizer", "model", "added_tokens")])


def memory_fingerprint(parts: Sequence[str], config: Any, tokenizer: Any) -> str:
    """Name all that makes a memory (hex sha256): `parts`, the model's shape and its tokenizer."""
    return digest_of([*parts, config_fingerprint(config), tokenizer_fingerprint(tokenizer)])
