"""Attach an adapter to a transformers model and take it off again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from deltamem_agents.adapter.backbones import Site, find_decoder, find_sites
from deltamem_agents.adapter.cache import MemoryCache, remember
from deltamem_agents.adapter.config import DeltaMemConfig
from deltamem_agents.adapter.forward import find_entry, install, uninstall
from deltamem_agents.adapter.layer import CHILD, DeltaMemLayer, add_memory, remove, take_memory
from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.adapter.store import Plan
from deltamem_agents.errors import ConfigError, UnsupportedModelError


def attach(model: nn.Module, config: DeltaMemConfig, *, name: str = "default") -> nn.Module:
    """Give a model a δ-mem, freshly initialised; the backbone's parameters are frozen.

    The model's modules stay what they are: small layers are added beside the projections, and
    hooks carry the corrections. With several adapters, the one attached last is the active one.

    Args:
        model: a decoder of transformers, and the very module that is called: what is called around
            it (`lm.generate` after `attach(lm.model, ..)`) tells the memory nothing of beams, and
            of rows that have ended.
        config: what to attach.
        name: the adapter's name.

    Returns:
        the same model.

    Raises:
        UnsupportedModelError: this architecture cannot carry a δ-mem.
        ConfigError: the layers are not there, or the name is taken. The model is unchanged then.
    """
    sites = find_sites(model, config.layers)
    check_name(sites, name)
    memories = [DeltaMemory(config, checked(site, config)) for site in sites]
    return install_all(model, sites, memories, name)


def checked(site: Site, config: DeltaMemConfig) -> Site:
    """The site, if it has a port for each correction of the configuration."""
    if missing := [c for c in config.corrections if c not in site.ports]:
        raise UnsupportedModelError(
            f"{type(site.module).__name__} has the projections that are to be corrected "
            f"({', '.join(site.ports)})",
            got=missing,
            remedy="Leave them out of DeltaMemConfig.corrections.",
        )
    return site


def check_name(sites: list[Site], name: str) -> None:
    """Refuse a name that is taken or that torch cannot take."""
    if not name or "." in name:
        raise ConfigError(
            "an adapter's name is not empty and has no dot",
            got=name,
            remedy='Choose another, for example "default".',
        )
    if any(name in site.module._modules.get(CHILD, ()) for site in sites):  # type: ignore[operator]
        raise ConfigError("an adapter's name is new", got=name, remedy="Call detach(model) first.")


def install_all(
    model: nn.Module, sites: list[Site], memories: list[DeltaMemory], name: str
) -> nn.Module:
    """Put finished adapters in place, all or none."""
    first = find_entry(model) is None
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    try:
        for site, memory in zip(sites, memories, strict=True):
            device = next(site.module.parameters()).device
            add_memory(site, name, memory if device.type == "meta" else memory.to(device))
        layers = layers_of(model)
        install(model, layers)
    except BaseException:
        if first:
            detach(model)
        else:
            for site in sites:
                take_memory(site.module, name)
        raise
    if first:
        entry = find_entry(model)
        assert entry is not None
        entry.trainable = trainable
    model.requires_grad_(False)
    for layer in layers:
        layer._active_adapter = [name]
        if name in layer:
            layer[name].requires_grad_(True)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take every adapter off; the model is what it was before the first `attach`."""
    entry = find_entry(model)
    uninstall(model)
    for module in list(model.modules()):
        if CHILD in module._modules:
            remove(module)
    if entry is not None:
        trainable = set(entry.trainable)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trainable or parameter.requires_grad)
    return model


def take_off(model: nn.Module, name: str) -> None:
    """Take one adapter off, and with the last one all that belongs to none of them."""
    for module in list(model.modules()):
        take_memory(module, name)
    if not layers_of(model):
        uninstall(model)


def layers_of(model: nn.Module) -> list[DeltaMemLayer]:
    """The tuner layers of a model, in the order of its decoder layers."""
    found = [module for module in model.modules() if isinstance(module, DeltaMemLayer)]
    return sorted(found, key=lambda layer: layer.index)


def memories_of(model: nn.Module) -> dict[str, DeltaMemory]:
    """The active adapter by path of the attention module, as named without wrappers.

    Raises:
        UnsupportedModelError: there is none.
    """
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, DeltaMemLayer) and (memory := module.running) is not None:
            found[plain_path(path.rpartition(".")[0])] = (module.index, memory)
    if not found:
        raise UnsupportedModelError(
            "the model has an active δ-mem adapter",
            got=type(model).__name__,
            remedy="Call attach(model, config) or load_adapter(model, folder).",
        )
    ordered = sorted(found.items(), key=lambda item: item[1][0])
    return {path: memory for path, (_, memory) in ordered}


def plain_path(path: str) -> str:
    """A module path as it reads without PEFT's wrappers."""
    return path.removeprefix("base_model.model.")


def plan_of(model: nn.Module) -> Plan:
    """Which states the active adapter has: layers, state heads, rank."""
    entry = find_entry(model)
    if entry is None or not (running := entry.running()):
        memories_of(model)
        raise AssertionError("unreachable: memories_of raises where nothing runs")
    return entry.plan(running)


def config_of(model: nn.Module) -> Any:
    """The transformers configuration of the decoder."""
    return find_decoder(model).config


def adapter_config(model: nn.Module) -> DeltaMemConfig:
    """The active adapter's configuration."""
    return next(iter(memories_of(model).values())).config


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The active adapter's parameters by released name (`model.layers.0.self_attn.beta_bias`)."""
    for path, memory in memories_of(model).items():
        for name, parameter in memory.named_parameters():
            yield f"{path}.{name}", parameter


def adapter_fingerprint(model: nn.Module) -> str:
    """Hex sha256 over the active adapter's configuration and tensors."""
    return fingerprint(adapter_config(model), dict(adapter_parameters(model)))


def fingerprint(config: DeltaMemConfig, tensors: dict[str, torch.Tensor]) -> str:
    """Hex sha256 over a configuration and named tensors, taken as float32 little-endian."""
    digest = hashlib.sha256(json.dumps(config.canonical(), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"\n{name}{list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def close_segments(model: nn.Module, cache: MemoryCache) -> None:
    """Write the segments left open by `MemoryCall(closes=False)`, without reading more tokens.

    Raises:
        StateError: the cache is of another adapter.
        UnsupportedModelError: no adapter is active.
    """
    store = remember(cache, plan_of(model), int(cache.get_seq_length()))
    by_index = {layer.index: layer.running for layer in layers_of(model)}
    for index in store.plan.layers:
        sums, memory = store.sums.get(index), by_index.get(index)
        if sums is not None and memory is not None:
            before = store.get(index, sums[0].shape[0], sums[0].device)
            store.states[index] = memory.write_means(sums, before, None, index)
    store.sums.clear()
    store.forget_history()
