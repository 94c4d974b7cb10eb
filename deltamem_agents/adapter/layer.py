"""The tuner layer beside an attention module's projections, and the hooks; nothing is replaced.

Hooks are objects, not closures, so that a model with an adapter can be copied and pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from deltamem_agents.adapter.backbones import Site, base_of
from deltamem_agents.adapter.call import CallContext
from deltamem_agents.adapter.corrections import Correction, corrected
from deltamem_agents.adapter.flight import FLIGHT
from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.adapter.registration import METHOD
from deltamem_agents.errors import ConfigError, StateError, UnsupportedModelError

#: Name of the layer inside an attention module; PEFT and transformers know our keys by it.
CHILD = METHOD


class DeltaMemLayer(nn.ModuleDict, BaseTunerLayer):  # type: ignore[misc]
    """Adapters of one attention module, by name.

    It is itself the dictionary name -> `DeltaMemory`, so that keys in a checkpoint read
    `...self_attn.delta_mem.<parameter>` for PEFT and for transformers' own loader, which put
    the adapter's name right after the component that carries the method's prefix.
    """

    _active_adapter: str | list[str]
    _disable_adapters: bool
    adapter_layer_names = ("adapters",)
    other_param_names = ()

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.index = site.index
        self.home = next(site.module.parameters()).device
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.projections: dict[str, nn.Module] = {}  # that have our hook, by correction

    @property
    def adapters(self) -> DeltaMemLayer:
        """This layer as PEFT expects to find its adapters."""
        return self

    @property
    def running(self) -> DeltaMemory | None:
        """The adapter that is switched on, or None.

        Raises:
            ConfigError: several are active at once.
        """
        if self._disable_adapters:
            return None
        active = self._active_adapter
        if isinstance(active, str):
            return self._modules.get(active)  # type: ignore[return-value]
        here = [name for name in active if name in self._modules]
        if len(here) > 1:
            raise ConfigError(
                "one δ-mem adapter is active at a time", got=here, remedy="Call set_adapter(name)."
            )
        return self._modules[here[0]] if here else None  # type: ignore[return-value]

    def connect(self, site: Site, correction: str) -> None:
        """Put a hook on the projection that takes a correction, if it has none."""
        port = site.ports[correction]
        projection = base_of(site.module.get_submodule(port.module))  # LoRA over it may come and go
        hook = _exit_of(projection)
        if hook is None:
            hook = ProjectionExit()
            projection.register_forward_hook(hook)
        hook.ports = {**hook.ports, correction: port.rows}  # a new one: others may look through it
        self.projections[correction] = projection

    def disconnect(self) -> None:
        """Take the hooks away that none of these adapters needs."""
        held: list[Any] = list(self.values())
        needed = {name for memory in held for name in memory.config.corrections}
        for correction in set(self.projections) - needed:
            projection = self.projections.pop(correction)
            hook = _exit_of(projection)
            if hook is not None:
                hook.ports = {n: rows for n, rows in hook.ports.items() if n != correction}
                if not hook.ports:
                    drop_hooks(projection, (ProjectionExit,))

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete one adapter, with the hooks that no other needs; PEFT calls this."""
        super().delete_adapter(adapter_name)
        self.disconnect()

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Follow the backbone to its device, but stay float32."""
        if adapter_name in self and not any(p.is_meta for p in self[adapter_name].parameters()):
            self[adapter_name].to(self.home if device is None else device)

    def begin(self, context: CallContext | None, hidden: Tensor) -> Mapping[str, Correction] | None:
        """Read the memory for an attention call: the corrections for its projections."""
        if context is None:
            if self.running is None:
                return None
            raise UnsupportedModelError(
                "an attention layer with memory runs inside its decoder",
                got=type(hidden).__name__,
                remedy="Call the model, not one of its layers.",
            )
        memory = context.running.get(self.index)
        if memory is None:
            return None
        if hidden.shape[:2] != (context.batch, context.length):
            raise StateError(
                f"attention sees the call's [{context.batch}, {context.length}] tokens",
                got=tuple(hidden.shape),
                remedy="Call the model with the whole batch, not one of its layers.",
            )
        corrections = context.decode(hidden, self.index)
        return memory.forward(hidden, context, self.index) if corrections is None else corrections


class AttentionEntry:
    """Pre-hook on attention: takes the call's context from the keywords and reads the memory."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        context = kwargs.pop("delta_mem", None)
        if context is None:
            context = FLIGHT.call
            if context is not None and context.checkpointed:
                raise UnsupportedModelError(
                    "with gradient checkpointing a decoder hands its keywords to its layers",
                    got=type(module).__name__,
                    remedy="Call model.gradient_checkpointing_disable().",
                )
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        layer: Any = module._modules[CHILD]
        FLIGHT.corrections = layer.begin(context, hidden)
        return args, kwargs


class AttentionExit:
    """Hook on attention: adds the o correction to its output."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        corrections, FLIGHT.corrections = FLIGHT.corrections, None
        if not corrections or "o" not in corrections or output is None:
            return None
        if isinstance(output, tuple):
            return (corrected(output[0], corrections["o"]), *output[1:])
        return corrected(output, corrections["o"])


class ProjectionExit:
    """Hook on a projection: adds one correction to all of its output, or several to rows of it."""

    def __init__(self) -> None:
        self.ports: dict[str, tuple[int, ...] | None] = {}

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        corrections = FLIGHT.corrections
        if not corrections:
            return None
        alone = len(module._forward_hooks) == 1  # else somebody may keep the bare output
        for name, rows in self.ports.items():
            if name in corrections:
                output = corrected(output, corrections[name], rows, in_place=alone)
        return output


HOOKS = (AttentionEntry, AttentionExit, ProjectionExit)


def add_memory(site: Site, name: str, memory: DeltaMemory) -> DeltaMemLayer:
    """Put an adapter into an attention module, with the hooks that it needs.

    Args:
        site: the attention module.
        name: the adapter's name.
        memory: the adapter.
    """
    attention = site.module
    if CHILD not in attention._modules:
        attention.add_module(CHILD, DeltaMemLayer(site))
        attention.register_forward_pre_hook(AttentionEntry(), with_kwargs=True)
        attention.register_forward_hook(AttentionExit(), always_call=True)
    layer = attention._modules[CHILD]
    assert isinstance(layer, DeltaMemLayer)
    layer[name] = memory
    memory.name = name
    for correction in memory.config.corrections:
        if correction != "o":
            layer.connect(site, correction)
    return layer


def _exit_of(projection: nn.Module) -> ProjectionExit | None:
    hooks = projection._forward_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, ProjectionExit)), None)


def take_memory(attention: nn.Module, name: str) -> None:
    """Take an adapter out of an attention module, with the hooks that no other one needs."""
    layer = attention._modules.get(CHILD)
    if isinstance(layer, DeltaMemLayer):
        layer._modules.pop(name, None)
        layer.disconnect()
        if not layer:
            remove(attention)


def remove(attention: nn.Module) -> None:
    """Take a layer and its hooks out of an attention module; a no-op where there is none."""
    attention._modules.pop(CHILD, None)
    for module in attention.modules():
        drop_hooks(module, HOOKS)


def drop_hooks(module: nn.Module, kinds: tuple[type, ...]) -> None:
    """Remove our hooks by their class; handles do not survive a copy of the model."""
    for hooks, flags in (
        (module._forward_pre_hooks, (module._forward_pre_hooks_with_kwargs,)),
        (module._forward_hooks,
         (module._forward_hooks_with_kwargs, module._forward_hooks_always_called)),
    ):  # fmt: skip
        for key in [k for k, hook in hooks.items() if isinstance(hook, kinds)]:
            del hooks[key]
            for flag in flags:
                flag.pop(key, None)
