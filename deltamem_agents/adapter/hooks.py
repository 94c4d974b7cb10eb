"""Hooks on the model and on its decoder: one context a call, for all layers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache

from deltamem_agents.adapter.cache import remember
from deltamem_agents.adapter.call import FLIGHT, MemoryCall, build_context, token_mask_from
from deltamem_agents.adapter.layer import DeltaMemLayer, drop_hooks
from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.adapter.rows import fan_out, unfinished
from deltamem_agents.adapter.store import MemoryStore, Plan
from deltamem_agents.errors import ConfigError, UnsupportedModelError


class ModelEntry:
    """Pre-hook on the whole model: takes `delta_mem` from the keywords, for any family."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        call = kwargs.pop("delta_mem", None)
        if call is not None and not isinstance(call, MemoryCall):
            raise ConfigError(
                "delta_mem is a MemoryCall",
                got=type(call).__name__,
                remedy="Pass delta_mem=MemoryCall(...).",
            )
        FLIGHT.given = call
        FLIGHT.generation = getattr(module, "generation_config", None)
        return args, kwargs


class ModelExit:
    """Hook on the whole model: the keyword does not outlive the call."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        FLIGHT.given = None
        FLIGHT.generation = None


class DecoderEntry:
    """Pre-hook on the decoder: builds the call's context and hands it down to the layers.

    Args:
        layers: the tuner layers of this decoder, in order.
        passes_keywords: whether its forward hands unknown keywords to its layers.
    """

    def __init__(self, layers: list[DeltaMemLayer], passes_keywords: bool) -> None:
        self.layers = layers
        self.passes_keywords = passes_keywords
        self.trainable: list[str] = []
        self._plan: tuple[tuple[int, ...], Plan] | None = None

    def running(self) -> dict[int, DeltaMemory]:
        """The adapters that are switched on, by layer."""
        found = ((layer.index, layer.running) for layer in self.layers)
        return {index: memory for index, memory in found if memory is not None}

    def plan(self, running: dict[int, DeltaMemory]) -> Plan:
        """Which states the running adapters need."""
        key = tuple(map(id, running.values()))
        if self._plan is None or self._plan[0] != key:
            config = next(iter(running.values())).config
            self._plan = (key, Plan(tuple(running), config.heads, config.rank))
        return self._plan[1]

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        given = kwargs.pop("delta_mem", None) or FLIGHT.given
        running = self.running()
        if not running:
            FLIGHT.call = None
            return args, kwargs
        _refuse_paged(module, kwargs)
        tokens = _tokens(args, kwargs)
        cache = _cache(module, kwargs)
        plan = self.plan(running)
        given = given or getattr(cache, "call", None) or MemoryCall()
        store = MemoryStore(plan) if cache is None else remember(cache, plan)
        past = 0 if cache is None else int(cache.get_seq_length())
        if past == 0 and getattr(cache, "keep_kv", True):
            fan_out(store, tokens)
        token_mask = None
        if given.may_pad and given.token_mask is None:
            token_mask = unfinished(store, tokens, FLIGHT.generation, given.pad_id)
        mask = kwargs.get("attention_mask")
        if mask is not None and given.token_mask is None:
            real = token_mask_from(mask, tokens.shape[1], past)
            if real is not None:
                token_mask = real if token_mask is None else real & token_mask
        if token_mask is not None and _needless(token_mask):
            token_mask = None
        context = build_context(
            given,
            store,
            batch=tokens.shape[0],
            length=tokens.shape[1],
            device=tokens.device,
            token_mask=token_mask,
            by_segment=next(iter(running.values())).config.by_segment,
        )
        context.running = running
        if given.record:
            store.records = []
        context.checkpointed = module.training and getattr(module, "gradient_checkpointing", False)
        context.carries_graph = cache is not None and torch.is_grad_enabled()
        FLIGHT.call = context
        if self.passes_keywords:
            kwargs["delta_mem"] = context
        return args, kwargs


class DecoderExit:
    """Hook on the decoder: a context that has run must not write again, nor be kept.

    After an error torch calls it without an output; the memory then stays as it was.
    """

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if FLIGHT.call is not None:
            FLIGHT.call.seal(finished=output is not None)
        FLIGHT.call = None
        FLIGHT.corrections = None


DECODER_HOOKS = (DecoderEntry, DecoderExit)
MODEL_HOOKS = (ModelEntry, ModelExit)


def install_hooks(model: nn.Module, decoder: nn.Module, layers: list[DeltaMemLayer]) -> None:
    """Put the hooks of a whole model in place, once; later calls refresh the list of layers."""
    entry = find_entry(model)
    if entry is not None:
        entry.layers = layers
        return
    parameters = inspect.signature(decoder.forward).parameters.values()
    passes = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    model.register_forward_pre_hook(ModelEntry(), with_kwargs=True)
    model.register_forward_hook(ModelExit(), always_call=True)
    decoder.register_forward_pre_hook(DecoderEntry(layers, passes), with_kwargs=True)
    decoder.register_forward_hook(DecoderExit(), always_call=True)


def remove_hooks(model: nn.Module) -> None:
    """Take the hooks of a whole model away."""
    for module in model.modules():
        drop_hooks(module, DECODER_HOOKS + MODEL_HOOKS)


def find_entry(model: nn.Module) -> DecoderEntry | None:
    """The decoder hook of a model, or None if it has no adapter."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, DecoderEntry):
                return hook
    return None


def _needless(token_mask: torch.Tensor) -> bool:
    """Whether there is no padding, where finding out is cheap: for long texts it stalls a GPU."""
    cheap = token_mask.device.type == "cpu" or token_mask.shape[1] == 1
    return cheap and not torch.compiler.is_compiling() and bool(token_mask.all())


def _tokens(args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    for name in ("input_ids", "inputs_embeds"):
        if kwargs.get(name) is not None:
            tokens: torch.Tensor = kwargs[name]
            return tokens
    first: torch.Tensor = args[0]
    return first


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


def _refuse_paged(decoder: nn.Module, kwargs: dict[str, Any]) -> None:
    attention = getattr(decoder.config, "_attn_implementation", None) or ""
    if str(attention).startswith("paged") or kwargs.get("cache") is not None:
        raise UnsupportedModelError(
            "a δ-mem reads each session as one row with a cache of its own",
            got="paged attention (transformers' continuous batching)",
            remedy="Use model.generate, or the scheduler of deltamem_agents.runtime.",
        )
    if kwargs.get("cu_seq_lens_q") is not None:
        raise UnsupportedModelError(
            "each row of a batch is one text",
            got="several texts packed into a row",
            remedy="Pad the batch instead of packing it.",
        )
