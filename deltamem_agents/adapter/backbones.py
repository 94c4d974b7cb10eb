"""Where the corrections enter a decoder: projections found by name, no family's code copied.

A family is supported if its decoder holds a list of layers, each with one attention module whose
query and output projections have a known name. What is found is described by `Ports`; everything
else in this room works on those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deltamem_agents.errors import ConfigError, UnsupportedModelError

LAYER_LISTS = ("layers", "h", "blocks")
ATTENTIONS = ("self_attn", "attention", "attn", "self_attention")
OUTPUTS = ("o_proj", "dense", "out_proj", "c_proj")
QUERIES = ("q_proj", "q_b_proj")


@dataclass(frozen=True)
class Port:
    """One projection that takes a correction.

    Args:
        module: path of the projection inside the attention module; its output is corrected.
        width: number of output features that are corrected.
        rows: which output features, when the projection is packed; None for all of them.
    """

    module: str
    width: int
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Site:
    """One attention module of a decoder.

    Args:
        index: number of the layer in the decoder.
        path: dotted path of the attention module from the model that was given.
        hidden: width of the attention's input and output.
        ports: for each of "q", "k", "v", "o" that this attention has, where its correction enters.
    """

    index: int
    path: str
    module: nn.Module = field(repr=False)
    hidden: int
    ports: dict[str, Port]

    def weight(self, correction: str) -> Tensor:
        """The base weight [out, in] behind a port, in the orientation of `nn.Linear`."""
        port = self.ports[correction]
        linear = self.module.get_submodule(port.module)
        stored: Any = linear.weight
        weight: Tensor = stored.detach()
        weight = weight.t() if type(linear).__name__ == "Conv1D" else weight
        return weight if port.rows is None else weight[list(port.rows)]


def find_decoder(model: nn.Module) -> nn.Module:
    """The module whose forward runs the list of layers.

    Raises:
        UnsupportedModelError: there is none.
    """
    getter: Callable[[], Any] | None = getattr(model, "get_decoder", None)
    decoder = getter() if callable(getter) else model
    for candidate in (decoder, model):
        if isinstance(candidate, nn.Module) and layer_list(candidate) is not None:
            return candidate
    for candidate in model.modules():
        if layer_list(candidate) is not None:
            return candidate
    raise UnsupportedModelError(
        "the model has a decoder with a list of layers",
        got=type(model).__name__,
        remedy=f"Known names of that list: {', '.join(LAYER_LISTS)}.",
    )


def layer_list(decoder: nn.Module) -> nn.ModuleList | None:
    """The decoder's list of layers, or None."""
    for name in LAYER_LISTS:
        layers = getattr(decoder, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers) > 0:
            return layers
    return None


def find_sites(model: nn.Module, layers: tuple[int, ...] | None = None) -> list[Site]:
    """The attention modules of a decoder that get a memory, in the order of the layers.

    Args:
        model: a transformers model.
        layers: layer indices, or None for every layer that has attention.

    Raises:
        UnsupportedModelError: the architecture is not known.
        ConfigError: a layer index is not there, or that layer has no attention.
    """
    decoder = find_decoder(model)
    modules = layer_list(decoder)
    assert modules is not None
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[int, Site] = {}
    for index, layer in enumerate(modules):
        attention = next(
            (a for n in ATTENTIONS if isinstance(a := getattr(layer, n, None), nn.Module)), None
        )
        if attention is not None:
            found[index] = _site(model, attention, index, names[id(attention)])
    if not found:
        raise UnsupportedModelError(
            "the decoder's layers have attention modules of a known name",
            got=type(model).__name__,
            remedy=f"Known names: {', '.join(ATTENTIONS)}.",
        )
    wanted = tuple(found) if layers is None else layers
    if missing := [i for i in wanted if i not in found]:
        raise ConfigError(
            f"layers are indices of layers with attention, of {sorted(found)}", got=missing
        )
    return [found[i] for i in wanted]


def _site(model: nn.Module, attention: nn.Module, index: int, path: str) -> Site:
    output = next((n for n in OUTPUTS if hasattr(attention, n)), None)
    query = next((n for n in QUERIES if getattr(attention, n, None) is not None), None)
    if output is None or query is None:
        raise UnsupportedModelError(
            "the attention module has query and output projections of a known name",
            got=f"{type(attention).__name__} of {type(model).__name__}",
            remedy=f"Known: {', '.join(QUERIES)} and {', '.join(OUTPUTS)}.",
        )
    ports = {"q": _whole(attention, query)}
    for name in ("k", "v"):
        if getattr(attention, f"{name}_proj", None) is not None:
            ports[name] = _whole(attention, f"{name}_proj")
    ports["o"] = _whole(attention, output)
    return Site(index, path, attention, ports["o"].width, ports)


def _whole(attention: nn.Module, name: str) -> Port:
    linear = attention.get_submodule(name)
    return Port(name, out_features(linear))


def out_features(linear: nn.Module) -> int:
    """Number of output features of a projection (`nn.Linear`, `Conv1D`, a wrapped one)."""
    for attribute in ("out_features", "nf"):
        value = getattr(linear, attribute, None)
        if isinstance(value, int):
            return value
    base = getattr(linear, "base_layer", None)
    if isinstance(base, nn.Module):
        return out_features(base)
    weight = getattr(linear, "weight", None)
    if isinstance(weight, torch.Tensor):
        return int(weight.shape[0])
    raise UnsupportedModelError("a projection tells its width", got=type(linear).__name__)
