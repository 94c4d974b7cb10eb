"""The forward of a model and of its decoder, with a memory around it: one context a call.

All of a call happens or none of it: memory, keys and values are those from before until the whole
forward has run, and are so again if it fails, whatever stops it. Hooks that others have put on the
model itself run after its forward, when all has happened.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache

from deltamem_agents.adapter import generation
from deltamem_agents.adapter.backbones import find_decoder
from deltamem_agents.adapter.cache import remember
from deltamem_agents.adapter.call import CallContext, MemoryCall, build_context, token_mask_from
from deltamem_agents.adapter.corrections import Correction
from deltamem_agents.adapter.flight import FLIGHT
from deltamem_agents.adapter.layer import DeltaMemLayer
from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.adapter.overrides import Override, Replicate
from deltamem_agents.adapter.refusals import refuse_ways
from deltamem_agents.adapter.rollback import Before
from deltamem_agents.adapter.store import MemoryStore, Plan
from deltamem_agents.errors import ConfigError, UnsupportedModelError


class ModelForward(Override):
    """In place of the model's forward: takes `delta_mem` from the keywords, for any family."""

    name = "forward"

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One call."""
        given, outer = _said(kwargs), (FLIGHT.given, FLIGHT.flown)
        if given is None and FLIGHT.call is None:  # of a model around this one
            given = FLIGHT.given
        flown: list[CallContext] = []
        try:
            FLIGHT.given, FLIGHT.flown = given, flown
            output = self.__wrapped__(*args, **kwargs)
            _land(flown)
            return output
        except BaseException:
            for context in flown:
                context.give_up()
            raise
        finally:
            FLIGHT.given, FLIGHT.flown = outer


class DecoderForward(Override):
    """In place of the decoder's forward: makes the call's context and hands it to the layers.

    Args:
        module: the decoder.
        layers: its tuner layers, in order.
    """

    name = "forward"

    def __init__(self, module: nn.Module, layers: list[DeltaMemLayer] | None = None) -> None:
        super().__init__(module)
        self.layers = layers or []
        self.trainable: list[str] = []
        parameters = inspect.signature(getattr(type(module), self.name)).parameters.values()
        named = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        self._names = tuple(named[1:])  # without self
        self._passes_keywords = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    def take_away(self) -> None:
        """As for any override; it does not keep the layers."""
        super().take_away()
        self.layers = []

    def running(self) -> dict[int, DeltaMemory]:
        """The adapters that are switched on, by layer."""
        found = ((layer.index, layer.running) for layer in self.layers)
        return {index: memory for index, memory in found if memory is not None}

    def plan(self, running: dict[int, DeltaMemory]) -> Plan:
        """Which states the running adapters need."""
        first = next(iter(running.values()))
        return Plan(tuple(running), first.config.heads, first.config.rank, first.name)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One call."""
        given, outer = _said(kwargs) or FLIGHT.given, _in_the_air()
        running, context = self.running(), None
        try:
            if running:
                args, kwargs = self._by_name(args, kwargs)
                context = self._begin(given, running, kwargs)
            FLIGHT.call, FLIGHT.corrections = context, None
            if context is not None and self._passes_keywords:
                kwargs["delta_mem"] = context
            output = self.__wrapped__(*args, **kwargs)
            if context is not None:
                context.sealed = True
                if FLIGHT.flown is None:
                    context.land()
                else:
                    FLIGHT.flown.append(context)
            return output
        except BaseException:
            if context is not None:
                context.give_up()
            raise
        finally:
            FLIGHT.call, FLIGHT.corrections = outer

    def _by_name(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Arguments by their names, as far as they have any."""
        if not args:
            return args, kwargs
        named = dict(zip(self._names, args, strict=False))
        if twice := named.keys() & kwargs.keys():
            raise TypeError(f"forward() got multiple values for argument {min(twice)!r}")
        return args[len(named) :], named | kwargs

    def _begin(
        self, given: MemoryCall | None, running: dict[int, DeltaMemory], kwargs: dict[str, Any]
    ) -> CallContext:
        module = self.module
        _land(FLIGHT.flown or [])  # of a decoder that runs twice in one forward
        tokens, cache, plan = _tokens(kwargs), _cache(module, kwargs), self.plan(running)
        given = given or getattr(cache, "call", None) or MemoryCall()
        refuse_ways(module, kwargs, given, tokens.shape[1])
        past = 0 if cache is None else int(cache.get_seq_length())
        home = MemoryStore(plan) if cache is None else remember(cache, plan, past)
        batch, length = tokens.shape[:2]
        going = generation.running(module, cache)
        context = build_context(
            given,
            home,
            repeats=1 if going is None or past else going.repeats_of(home.batch, batch),
            batch=batch,
            length=length,
            device=tokens.device,
            token_mask=_token_mask(given, going, kwargs.get("attention_mask"), tokens, past),
            by_segment=next(iter(running.values())).config.by_segment,
        )
        context.running = running
        context.checkpointed = module.training and getattr(module, "gradient_checkpointing", False)
        context.carries_graph = cache is not None and torch.is_grad_enabled()
        if cache is not None:
            context.before = Before(cache, past, length)
        return context


def _in_the_air() -> tuple[CallContext | None, Mapping[str, Correction] | None]:
    """The call that this one happens in; corrections without one are of a call that was stopped."""
    return FLIGHT.call, None if FLIGHT.call is None else FLIGHT.corrections


def _land(flown: list[CallContext]) -> None:
    while flown:
        flown[0].land()
        del flown[0]


def install(model: nn.Module, layers: list[DeltaMemLayer]) -> None:
    """Put everything in place that a model needs beside its layers, where it is not there yet."""
    entry, decoder = find_entry(model), find_decoder(model)
    if entry is None:
        DecoderForward(decoder, layers).put()
        Replicate(decoder).put()
    else:
        entry.layers = layers
    if model is not decoder and not any(ModelForward.of(module) for module in model.modules()):
        ModelForward(model).put()
    for generator in generation.generators_of(model, decoder):
        for override in generation.OVERRIDES:
            if override.of(generator) is None:
                override(generator).put()


def uninstall(model: nn.Module) -> None:
    """Take away what `install` has put in place."""
    for module in model.modules():
        for override in [x for x in module.__dict__.values() if isinstance(x, Override)]:
            override.take_away()


def find_entry(model: nn.Module) -> DecoderForward | None:
    """What stands in place of the decoder's forward, or None if the model has no adapter."""
    for module in model.modules():
        entry: DecoderForward | None = DecoderForward.of(module)
        if entry is not None:
            return entry
    return None


def _said(kwargs: dict[str, Any]) -> MemoryCall | None:
    call = kwargs.pop("delta_mem", None)
    if call is not None and not isinstance(call, MemoryCall):
        raise ConfigError(
            "delta_mem is a MemoryCall",
            got=type(call).__name__,
            remedy="Pass delta_mem=MemoryCall(...).",
        )
    return call


def _token_mask(
    given: MemoryCall,
    going: generation.Generation | None,
    mask: Any,
    tokens: torch.Tensor,
    past: int,
) -> torch.Tensor | None:
    """Bool[B, T], False in padding, or None where there is none."""
    if given.token_mask is not None:  # said by the caller, who knows
        return None
    real = None if going is None else going.unfinished(tokens)
    attended = token_mask_from(mask, tokens.shape[1], past)
    if real is None or attended is None:
        real = attended if real is None else real
    else:
        real = real & attended
    return None if real is None or _needless(real) else real


def _needless(token_mask: torch.Tensor) -> bool:
    """Whether there is no padding, where finding out is cheap: for long texts it stalls a GPU."""
    cheap = token_mask.device.type == "cpu" or token_mask.shape[1] == 1
    return cheap and not torch.compiler.is_compiling() and bool(token_mask.all())


def _tokens(kwargs: dict[str, Any]) -> torch.Tensor:
    for name in ("input_ids", "inputs_embeds"):
        if kwargs.get(name) is not None:
            tokens: torch.Tensor = kwargs[name]
            return tokens
    raise ConfigError(
        "a decoder is given tokens",
        got=f"{', '.join(sorted(kwargs)) or 'nothing'}",
        remedy="Pass input_ids or inputs_embeds.",
    )


def _cache(decoder: nn.Module, kwargs: dict[str, Any]) -> Cache | None:
    """The call's cache; made here, as the decoder would make it, where it would be made."""
    cache = kwargs.get("past_key_values")
    if cache is not None:
        if not isinstance(cache, Cache):
            raise UnsupportedModelError(
                "past_key_values is a transformers Cache",
                got=type(cache).__name__,
                remedy="Pass transformers' DynamicCache(), or a MemoryCache(model).",
            )
        return cache
    config: Any = decoder.config
    use_cache = kwargs.get("use_cache")
    use_cache = getattr(config, "use_cache", False) if use_cache is None else use_cache
    if not use_cache or (decoder.training and getattr(decoder, "gradient_checkpointing", False)):
        return None
    kwargs["past_key_values"] = DynamicCache(config=config)
    made: Cache = kwargs["past_key_values"]
    return made
