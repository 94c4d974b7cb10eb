"""Adapters on disk, in our format or the released one, into a model and out of it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltamem_agents.adapter import official
from deltamem_agents.adapter.backbones import Site, find_sites
from deltamem_agents.adapter.config import CORRECTIONS, DeltaMemConfig
from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.adapter.model import (
    adapter_config,
    adapter_parameters,
    check_name,
    checked,
    config_of,
    install_all,
    plain_path,
)
from deltamem_agents.adapter.ours import CONFIG, WEIGHTS, check_finite, read_ours, write_ours
from deltamem_agents.errors import (
    ConfigError,
    FileFormatError,
    ModelNotFoundError,
    UnsupportedModelError,
)

_WHERE = "Give a folder with an adapter in it, or the name of a repository on the hub."


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    format: str = "deltamem",
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """Write the active adapter.

    Args:
        model: a model with an adapter.
        folder: made if it is not there.
        format: "deltamem" (JSON and safetensors) or "official" (as the released code).
        tensors: its tensors by released name, where the model holds only a part of each (FSDP).

    Returns:
        the folder.

    Raises:
        UnsupportedModelError: no adapter is active, or the model has no place in that format.
    """
    config = adapter_config(model)
    tensors = dict(adapter_parameters(model)) if tensors is None else tensors
    folder = Path(folder)
    if format == "official":
        official.write_official(folder, config, tensors, _widths(model, config))
    elif format == "deltamem":
        write_ours(folder, config, tensors, _backbone(model) | {"widths": _widths(model, config)})
    else:
        raise ConfigError(
            'format is "deltamem" or "official"',
            got=format,
            remedy='Leave it out for "deltamem", which holds everything.',
        )
    return folder


def load_adapter(
    model: nn.Module,
    source: str | Path,
    *,
    name: str = "default",
    trainable: bool = False,
    revision: str | None = None,
) -> nn.Module:
    """Attach an adapter from a folder or from the hub, in our format or the released one.

    Args:
        model: the backbone that the adapter was made for.
        source: a local folder, or a name on the hub.
        name: the adapter's name in the model.
        trainable: whether its parameters take gradients.
        revision: on the hub, which one.

    Returns:
        the same model.

    Raises:
        ModelNotFoundError: no such folder or repository.
        FileFormatError: a damaged file, missing or unknown keys, wrong shapes, NaN.
        UnsupportedModelError: made for another backbone. The model is unchanged in every case.
    """
    folder = resolve(source, revision)
    config, tensors, backbone = read(folder)
    if backbone is not None:
        _same_backbone(backbone, _backbone(model))
    sites = _sites(model, config)
    check_name(sites, name)
    memories = [DeltaMemory(config, checked(site, config)) for site in sites]
    _fill(sites, memories, tensors)
    install_all(model, sites, memories, name)
    if not trainable:
        for memory in memories:
            memory.requires_grad_(False)
    return model


def read(folder: Path) -> tuple[DeltaMemConfig, dict[str, Tensor], dict[str, Any] | None]:
    """Configuration, tensors and description of the backbone of an adapter in either format.

    Raises:
        FileFormatError: neither format, or damaged.
    """
    if (folder / CONFIG).is_file():
        return read_ours(folder)
    if (folder / official.CONFIG).is_file():
        return (*official.read_official(folder), None)
    raise FileFormatError(
        f"an adapter folder holds {CONFIG} or {official.CONFIG}",
        got=str(folder),
        remedy="PEFT adapters are loaded by PeftModel.from_pretrained.",
    )


def convert(source: str | Path, target: str | Path, *, revision: str | None = None) -> Path:
    """Turn an adapter in the released format into ours, or the other way round.

    Args:
        source: a local folder, or a name on the hub.
        target: a folder; made if it is not there.
        revision: on the hub, which one.

    Returns:
        the target folder.

    Raises:
        ModelNotFoundError, FileFormatError: as `load_adapter`.
        UnsupportedModelError: the released format has no place for this adapter.
    """
    config, tensors, backbone = read(resolve(source, revision))
    target = Path(target)
    if backbone is not None:
        official.write_official(target, config, tensors, backbone.get("widths", {}))
        return target
    check_finite(tensors)
    hidden = next((t.shape[1] for n, t in tensors.items() if n.endswith("beta_proj")), 0)
    widths: dict[str, dict[str, int]] = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        if last.startswith("delta_") and last.endswith("_proj"):
            correction = last.removeprefix("delta_").removesuffix("_proj")
            widths.setdefault(path, {})[correction] = tensor.shape[0]
    unused = tuple(f".delta_{c}_proj" for c in CORRECTIONS if c not in config.corrections)
    kept = {n: t for n, t in tensors.items() if not (unused and n.endswith(unused))}
    write_ours(target, config, kept, {"hidden_size": hidden, "widths": widths})
    return target


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of an adapter: as given, or fetched from the hub.

    Raises:
        ModelNotFoundError: there is no such folder and no such repository within reach.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    text = str(source)
    if folder.exists() or folder.is_absolute() or text.count("/") != 1 or text.startswith("."):
        raise ModelNotFoundError("the adapter's folder exists", got=text, remedy=_WHERE)
    from huggingface_hub import snapshot_download

    names = [CONFIG, WEIGHTS, official.CONFIG, official.WEIGHTS]
    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=names))
    except Exception as error:  # the client raises many kinds; all mean that it cannot be had
        raise ModelNotFoundError(
            "the adapter can be fetched from the hub", got=f"{text}: {error}", remedy=_WHERE
        ) from error


def _sites(model: nn.Module, config: DeltaMemConfig) -> list[Site]:
    try:
        return find_sites(model, config.layers)
    except ConfigError as error:
        raise UnsupportedModelError(
            "the model has the layers that the adapter was made for",
            got=error.got,
            remedy="Load it into the backbone it was trained on.",
        ) from error


def _fill(sites: list[Site], memories: list[DeltaMemory], tensors: dict[str, Tensor]) -> None:
    """Copy checked tensors into adapters that are not yet part of a model."""
    wanted: dict[str, nn.Parameter] = {}
    optional: dict[str, tuple[int, int]] = {}
    for site, memory in zip(sites, memories, strict=True):
        path = plain_path(site.path)
        wanted |= {f"{path}.{n}": p for n, p in memory.named_parameters()}
        for name in set(CORRECTIONS) & set(site.ports) - set(memory.sizes):
            key = f"{path}.delta_{name}_proj"
            optional[key] = (site.ports[name].width, memory.config.width)
        if memory.config.o_rmsnorm and "o" not in memory.sizes:
            optional[f"{path}.delta_o_rmsnorm_weight"] = (site.hidden,)  # type: ignore[assignment]
    shapes = {name: tuple(p.shape) for name, p in wanted.items()} | optional
    check_tensors(tensors, set(wanted), shapes)
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(tensors[key])


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: Set[str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse an adapter's tensors that do not fit the model.

    Args:
        tensors: by name.
        wanted: names that must be there.
        shapes: of all that may be there.

    Raises:
        FileFormatError: some are missing, unknown, or not finite.
        UnsupportedModelError: they have shapes of another backbone.
    """
    if missing := sorted(wanted - set(tensors)):
        raise FileFormatError(
            "an adapter has a tensor for each parameter",
            got=_few(missing),
            remedy="Fetch it again, or load it into the backbone it was made for.",
        )
    if extra := sorted(set(tensors) - set(shapes)):
        raise FileFormatError(
            "an adapter has no tensor without a parameter",
            got=_few(extra),
            remedy="Fetch it again, or load it into the backbone it was made for.",
        )
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[key]:
            raise UnsupportedModelError(
                f"{key} has the shape {list(shapes[key])} of this backbone",
                got=tuple(tensor.shape),
                remedy="Load the adapter into the backbone it was trained on.",
            )
    check_finite(tensors)


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _backbone(model: nn.Module) -> dict[str, Any]:
    config = config_of(model)
    return {
        "model_type": str(getattr(config, "model_type", "")),
        "hidden_size": int(getattr(config, "hidden_size", 0)),
        "num_hidden_layers": int(getattr(config, "num_hidden_layers", 0)),
    }


def _same_backbone(theirs: dict[str, Any], here: dict[str, Any]) -> None:
    theirs = {name: value for name, value in theirs.items() if name in here}
    if any(here[name] != value for name, value in theirs.items()):
        raise UnsupportedModelError(
            f"the adapter was made for this backbone ({here})",
            got=theirs,
            remedy="Load it into the backbone it was trained on.",
        )


def _widths(model: nn.Module, config: DeltaMemConfig) -> dict[str, dict[str, int]]:
    return {
        plain_path(site.path): {name: port.width for name, port in site.ports.items()}
        for site in find_sites(model, config.layers)
    }
