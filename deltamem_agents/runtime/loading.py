"""Loading a backbone with its tokenizer and adapter into an `Engine`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from deltamem_agents.adapter import adapter_fingerprint, load_adapter
from deltamem_agents.errors import (
    ConfigError,
    FileFormatError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from deltamem_agents.runtime import fingerprints
from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.limits import low_water_of, positions_of, window_of
from deltamem_agents.runtime.template import ChatTemplate, WritePolicy

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
}
_SMALL = 200 * 2**20
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def load_engine(
    model: Any = None,
    adapter: str | Path | None = None,
    *,
    tokenizer: Any = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    quantization: str | None = None,
    context_window: int | None = None,
    low_water: int | None = None,
    template: str | None = None,
    write_policy: WritePolicy | None = None,
    live_bytes: int = 2**30,
    queue_size: int = 256,
) -> Engine:
    """Load a backbone and its adapter.

    Args:
        model: a folder, a name on the hub, or a loaded causal LM of transformers; None for the
            built-in one.
        adapter: a folder or a name on the hub; None for the built-in one's, or where a loaded model
            carries an adapter already.
        tokenizer: for a loaded model, its fast tokenizer; otherwise it comes from the folder.
        device: "cpu", "cuda", "cuda:1", ...; None takes CUDA where there is one.
        dtype: of the backbone ("float32", "bfloat16", "float16", "auto"); None takes float32 on the
            CPU and bfloat16 on CUDA. The memory is float32 always.
        attn_implementation: as in transformers; None takes flash_attention_2 where it runs, else
            sdpa.
        device_map: as in transformers, in place of `device`.
        quantization: "4bit" or "8bit", where bitsandbytes is installed.
        context_window: most visible tokens of a prompt; None for half of the positions, at most
            32768.
        low_water: visible tokens down to which turns leave when the window is full; None for half.
        template: the name of a shipped chat template or a Jinja text; None for the tokenizer's.
        write_policy: which tokens are written; None for all.
        live_bytes: bytes of keys and values kept of recent conversations.
        queue_size: most turns in work or waiting.

    Raises:
        ModelNotFoundError: a folder or a repository is not there.
        UnsupportedModelError: the adapter was made for another backbone.
        ConfigError: a value breaks its rule.
        FileFormatError: a file is damaged.
    """
    if model is None:
        model, adapter = built_in("backbone"), adapter or built_in("adapter")
    name = str(model) if isinstance(model, (str, Path)) else type(model).__name__
    if isinstance(model, (str, Path)):
        folder = resolve_model(model)
        weights = fingerprints.file_fingerprint(folder) + (quantization or "")
        tokenizer = tokenizer or load_tokenizer(folder)
        loaded = load_backbone(folder, device, dtype, attn_implementation, device_map, quantization)
    else:
        loaded, weights = model, fingerprints.tensor_fingerprint(model)
        _require_tokenizer(tokenizer, name)
    if adapter is not None:
        load_adapter(loaded, adapter)
    positions = positions_of(loaded)
    window = window_of(context_window, positions)
    chat_template = ChatTemplate(tokenizer, template, policy=write_policy)
    parts = [_adapter_name(loaded), weights, chat_template.digest]
    return Engine(
        loaded.eval(),
        tokenizer,
        fingerprint=fingerprints.memory_fingerprint(parts, loaded.config, tokenizer),
        template=chat_template,
        context_window=window,
        low_water=low_water_of(low_water, window),
        max_positions=positions,
        live_bytes=live_bytes,
        queue_size=queue_size,
        name=name,
    )


def _require_tokenizer(tokenizer: Any, name: str) -> None:
    if tokenizer is None:
        raise ConfigError(
            "a loaded model comes with its tokenizer",
            got=name,
            remedy="Pass tokenizer=AutoTokenizer.from_pretrained(...).",
        )


def built_in(part: str) -> str:
    """The folder of the built-in "backbone" or "adapter"."""
    folder = Path(str(resources.files("deltamem_agents"))) / "builtin" / part
    if not folder.is_dir():
        raise ModelNotFoundError(
            "the built-in model is in the package",
            got=str(folder),
            remedy="Install the package again, or pass model= and adapter=.",
        )
    return str(folder)


def _adapter_name(model: Any) -> str:
    try:
        return adapter_fingerprint(model)
    except UnsupportedModelError as error:
        raise ConfigError(
            "a model is loaded with its adapter",
            got="no adapter",
            remedy="Pass adapter= a folder or a name on the hub.",
        ) from error


def resolve_model(name: str | Path) -> Path:
    """The local folder of a model: as given, or fetched from the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    looks_local = isinstance(name, Path) or folder.is_absolute() or str(name).count("/") != 1
    if looks_local or str(name).startswith((".", "~")):
        raise ModelNotFoundError(
            "a model is a folder or a name on the hub",
            got=str(name),
            remedy="Check the path; a folder holds config.json and model.safetensors.",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=_FILES))
    except Exception as error:
        raise ModelNotFoundError(
            "a model on the hub can be reached",
            got=str(name),
            remedy="Check the name and the connection, or pass a local folder.",
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """A model's fast tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            "a model's folder holds its tokenizer",
            got=str(folder),
            remedy="Add tokenizer.json and tokenizer_config.json.",
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            "a tokenizer is a fast one",
            got=type(tokenizer).__name__,
            remedy="Add its tokenizer.json.",
        )
    return tokenizer


def load_backbone(
    folder: Path, device: str | None, dtype: Any, attention: str | None, device_map: Any,
    quantization: str | None,
) -> Any:  # fmt: skip
    """A causal LM without an adapter; arguments as in `load_engine`."""
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            "a model's folder holds config.json",
            got=str(folder),
            remedy="Give the folder that save_pretrained wrote.",
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = _dtype(dtype, device)
    options: dict[str, Any] = {
        "dtype": kind,
        "attn_implementation": attention or _attention(device, kind),
    }
    if quantization:
        options["quantization_config"] = _quantization(quantization)
    if device_map is not None:
        options["device_map"] = device_map
    try:
        with _quiet(folder):
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            "a model's folder holds whole files",
            got=f"{folder}: {error}",
            remedy="Fetch or save the model again.",
        ) from error
    return model if device_map is not None or quantization else model.to(device)


@contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """Show no progress bar where loading takes no time."""
    from transformers.utils import logging

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size > _SMALL or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _dtype(dtype: str | torch.dtype | None, device: str) -> Any:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype is None:
        return torch.float32 if device == "cpu" else torch.bfloat16
    name = dtype.removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(
            f"dtype is one of auto, {', '.join(_DTYPES)}",
            got=dtype,
            remedy="Leave it out: float32 on a CPU, else bfloat16.",
        )
    return _DTYPES[name]


def _attention(device: str, dtype: Any) -> str:
    from transformers.utils import is_flash_attn_2_available

    half = dtype in (torch.bfloat16, torch.float16)
    flash = half and device.startswith("cuda") and is_flash_attn_2_available()
    return "flash_attention_2" if flash else "sdpa"


def _quantization(name: str) -> Any:
    if name not in ("4bit", "8bit"):
        raise ConfigError(
            'quantization is "4bit" or "8bit"', got=name, remedy="Leave it out for full weights."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "quantization needs bitsandbytes", got=name, remedy="Run `pip install bitsandbytes`."
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=name == "4bit", load_in_8bit=name == "8bit")
