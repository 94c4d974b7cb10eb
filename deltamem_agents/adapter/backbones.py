"""Where the corrections enter a decoder: projections found by name, no family's code copied.

A family is supported if its decoder holds a list of layers, each with one attention module whose
query and output projections have a known name or a layout in `layouts`. What is found is described
by `Port`s; everything else in this room works on those.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deltamem_agents.adapter.layouts import LAYOUTS, heads_of
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
        rows: which output features, when others are not; None for all of them.
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
        linear = base_of(self.module.get_submodule(port.module))
        stored: Any = linear.weight
        weight: Tensor = stored.detach()
        if weight.dim() != 2 or not weight.is_floating_point():
            raise UnsupportedModelError(
                "initial values are taken from plain weights",
                got=f"{type(linear).__name__} in {self.path}",
                remedy='Choose DeltaMemConfig(init="zero") or "random".',
            )
        weight = weight.t() if type(linear).__name__ == "Conv1D" else weight
        return weight if port.rows is None else weight[list(port.rows)]


def find_decoder(model: nn.Module) -> nn.Module:
    """The module whose forward runs the list of layers.

    Raises:
        UnsupportedModelError: there is none.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise UnsupportedModelError(
            "the model is a decoder alone",
            got=f"{type(model).__name__}, an encoder-decoder",
            remedy="Use a causal language model.",
        )
    getter: Callable[[], Any] | None = getattr(model, "get_decoder", None)
    decoder = getter() if callable(getter) else model
    candidates = [decoder, model, *model.modules()]
    for candidate in candidates:
        if isinstance(candidate, nn.Module) and layer_list(candidate) is not None:
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
    attentions = {i: a for i, layer in enumerate(modules) if (a := _attention(layer)) is not None}
    if not attentions:
        raise UnsupportedModelError(
            "the decoder's layers have attention modules of a known name",
            got=type(model).__name__,
            remedy=f"Known names: {', '.join(ATTENTIONS)}.",
        )
    _refuse_encoder(decoder, attentions.values(), type(model).__name__)
    wanted = tuple(attentions) if layers is None else layers
    if missing := [i for i in wanted if i not in attentions]:
        raise ConfigError(
            f"layers are indices of layers with attention, of {sorted(attentions)}",
            got=missing,
            remedy="Choose from these, or leave layers out for all of them.",
        )
    return [_site(model, decoder, attentions[i], i, names[id(attentions[i])]) for i in wanted]


def _refuse_encoder(decoder: nn.Module, attentions: Iterable[nn.Module], who: str) -> None:
    """Refuse what sees its tokens from both sides, or reads none: a memory is written in order."""
    config: Any = getattr(decoder, "config", None)
    parts = (config, *attentions)
    both_ways = any(getattr(part, "is_causal", None) is False for part in parts)
    reads = inspect.signature(type(decoder).forward).parameters
    if both_ways or not {"input_ids", "inputs_embeds"} & set(reads):
        raise UnsupportedModelError(
            "a memory is for a causal decoder: one that reads tokens, each after those before it",
            got=f"{type(decoder).__name__} of {who}, an encoder",
            remedy="Use a causal language model.",
        )


def _attention(layer: nn.Module) -> nn.Module | None:
    for name in ATTENTIONS:
        attention = getattr(layer, name, None)
        if isinstance(attention, nn.Module):
            inner = getattr(attention, "attention", None)  # GPT-Neo wraps its attention once more
            return inner if isinstance(inner, nn.Module) else attention
    return None


def _site(
    model: nn.Module, decoder: nn.Module, attention: nn.Module, index: int, path: str
) -> Site:
    config: Any = decoder.config
    who = f"{type(attention).__name__} of {type(model).__name__}"
    output = next((n for n in OUTPUTS if hasattr(attention, n)), None)
    ports = _registered(attention, config, who) or _named(attention, config, who)
    if output is None:
        raise UnsupportedModelError(
            "the attention module has an output projection of a known name",
            got=who,
            remedy=f"Known: {', '.join(OUTPUTS)}.",
        )
    ports["o"] = Port(output, out_features(attention.get_submodule(output)))
    return Site(index, path, attention, ports["o"].width, ports)


def _registered(attention: nn.Module, config: Any, who: str) -> dict[str, Port]:
    layout = LAYOUTS.get(str(getattr(config, "model_type", "")))
    if layout is None:
        return {}
    ports = {}
    for name, (module, rows) in layout(attention, heads_of(attention, config)).items():
        if max(rows) >= out_features(attention.get_submodule(module)):
            raise UnsupportedModelError(
                f"{module} is laid out as in its family",
                got=who,
                remedy="Use the backbone with the projections that its family was released with.",
            )
        ports[name] = Port(module, len(rows), rows)
    return {**ports, **{n: p for n, p in _keys_and_values(attention).items() if n not in ports}}


def _named(attention: nn.Module, config: Any, who: str) -> dict[str, Port]:
    query = next((n for n in QUERIES if getattr(attention, n, None) is not None), None)
    if query is None:
        raise UnsupportedModelError(
            "the attention module has a query projection of a known name or layout",
            got=who,
            remedy=f"Known names: {', '.join(QUERIES)}; layouts: {', '.join(LAYOUTS)}.",
        )
    width = out_features(attention.get_submodule(query))
    heads = heads_of(attention, config)
    if query == "q_proj" and width == 2 * heads.query * heads.size:
        raise UnsupportedModelError(
            "the query projection holds queries alone, or has a layout",
            got=f"{who}, with {width} features for {heads.query} heads of {heads.size}",
            remedy=f"Layouts are known of {', '.join(LAYOUTS)}; use another backbone.",
        )
    return {"q": Port(query, width), **_keys_and_values(attention)}


def _keys_and_values(attention: nn.Module) -> dict[str, Port]:
    ports = {}
    for name in ("k", "v"):
        projection = getattr(attention, f"{name}_proj", None)
        if isinstance(projection, nn.Module):
            ports[name] = Port(f"{name}_proj", out_features(projection))
    return ports


def base_of(linear: nn.Module) -> nn.Module:
    """A projection without the wrappers of other PEFT methods."""
    while isinstance(inner := getattr(linear, "base_layer", None), nn.Module):
        linear = inner
    return linear


def out_features(linear: nn.Module) -> int:
    """Number of output features of a projection (`nn.Linear`, `Conv1D`, a wrapped one)."""
    linear = base_of(linear)
    for attribute in ("out_features", "nf"):
        value = getattr(linear, attribute, None)
        if isinstance(value, int):
            return value
    weight = getattr(linear, "weight", None)
    if isinstance(weight, torch.Tensor):
        return int(weight.shape[0])
    raise UnsupportedModelError(
        "a projection tells its width",
        got=type(linear).__name__,
        remedy="Use projections of torch.nn.Linear, or with out_features.",
    )
