"""δ-mem as a method of PEFT, beside LoRA and the others.

    model = get_peft_model(model, DeltaMemConfig())

Nothing is wrapped: the tuner layer sits inside the attention module, so that LoRA can be stacked
under or over it. Importing this file registers the method.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.tuners.tuners_utils import delete_adapter as delete_everywhere
from peft.utils import AuxiliaryTrainingWrapper, register_peft_method
from torch import Tensor, nn

from deltamem_agents.adapter.backbones import Site, find_sites
from deltamem_agents.adapter.config import DeltaMemConfig
from deltamem_agents.adapter.files import check_tensors
from deltamem_agents.adapter.forward import install
from deltamem_agents.adapter.layer import DeltaMemLayer, add_memory, take_memory
from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.adapter.model import check_name, checked, detach, layers_of, take_off
from deltamem_agents.adapter.registration import METHOD, peft_type
from deltamem_agents.errors import ConfigError, DeltaMemError, UnsupportedModelError


class DeltaMemModel(BaseTuner):  # type: ignore[misc]
    """What `get_peft_model` makes of a `DeltaMemConfig`; see `peft.tuners.tuners_utils`.

    What PEFT loads is checked: names, shapes, and that all numbers are finite; after a refusal the
    backbone has no module of ours, but PEFT has frozen it. Only our `load_adapter` knows more: the
    kind of backbone, and that tensors and configuration were written together. The loader inside
    transformers (`model.load_adapter`) asks no method of PEFT: it warns of names and looks at
    shapes, and it takes NaN.
    """

    prefix = METHOD
    tuner_layer_cls = DeltaMemLayer
    target_module_mapping: ClassVar[dict[str, Any]] = {}

    def _prepare_adapter_config(self, peft_config: DeltaMemConfig, model_config: Any) -> Any:
        return peft_config

    def _check_target_module_exists(self, peft_config: DeltaMemConfig, key: str) -> bool:
        return key in self._sites

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Add an adapter, all of it or nothing."""
        config: DeltaMemConfig = self.peft_config[adapter_name]
        sites = find_sites(model, config.layers)
        check_name(sites, adapter_name)
        self.__dict__["_sites"] = {site.path: checked(site, config) for site in sites}
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            for site in sites:
                take_memory(site.module, adapter_name)
            raise
        install(model, layers_of(model))

    def _create_and_replace(
        self, peft_config: DeltaMemConfig, adapter_name: str, target: nn.Module, *args: Any,
        current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        site: Site = self._sites[current_key]
        memory = DeltaMemory(peft_config, site)
        memory.awaited = peft_config.stored or bool(peft_config.inference_mode)
        layer = add_memory(site, adapter_name, memory)
        layer._move_adapter_to_device_of_base_layer(adapter_name)
        if adapter_name not in self.active_adapters:
            layer[adapter_name].requires_grad_(False)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """A checkpoint's tensors by their names in the model; PEFT copies them in afterwards.

        Raises:
            FileFormatError: some are missing, unknown, or not finite.
            UnsupportedModelError: they have shapes of another backbone. An adapter that was made
                to be filled from this checkpoint is taken off again.
        """
        renamed: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        memories: dict[str, Any] = {
            f"{path}.{adapter_name}": layer[adapter_name]
            for path, layer in model.named_modules()
            if isinstance(layer, DeltaMemLayer) and adapter_name in layer
        }
        shapes = {
            f"{path}.{name}": tuple(parameter.shape)
            for path, memory in memories.items()
            for name, parameter in memory.named_parameters()
        }
        ours = {key: tensor for key, tensor in renamed.items() if METHOD in key.split(".")}
        try:
            check_tensors(ours, set(shapes), shapes)
        except DeltaMemError:
            if any(memory.awaited for memory in memories.values()):
                _forget(model, adapter_name)
            raise
        for memory in memories.values():
            memory.awaited = False
        return renamed

    @contextmanager
    def _enable_peft_forward_hooks(
        self, *_: Any, adapter_names: list[str] | None = None, **__: Any
    ) -> Iterator[None]:
        """PEFT's place for adapters that differ from row to row, which these cannot."""
        if adapter_names is not None:
            raise UnsupportedModelError(
                "all rows of a batch are read by the active δ-mem adapter",
                got=f"adapter_names={adapter_names}",
                remedy="Call set_adapter(name), and run the rows of each adapter by themselves.",
            )
        yield

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete one adapter; the layers stay until `unload`."""
        if adapter_name not in self.peft_config:
            raise ConfigError(
                "an adapter that is deleted is there",
                got=adapter_name,
                remedy=f"Choose one of {list(self.peft_config)}.",
            )
        del self.peft_config[adapter_name]
        # PEFT skips modules whose path has the method's prefix, as ours do; so give it another.
        remaining = delete_everywhere(
            model=self.model, adapter_name=adapter_name, prefix="\0", layer_cls=DeltaMemLayer
        )
        self.active_adapter = remaining or []

    def _unload_and_optionally_merge(self, merge: bool = True, **_: Any) -> nn.Module:
        if merge:
            raise UnsupportedModelError(
                "a δ-mem depends on what was read and is no part of the weights",
                got="merge",
                remedy="Use unload().",
            )
        for path, module in list(self.model.named_modules()):
            if isinstance(module, AuxiliaryTrainingWrapper):
                parent, _, name = path.rpartition(".")
                plain = module.unload_and_optionally_merge_module(
                    merge=False, safe_merge=False, adapter_names=None
                )
                setattr(self.model.get_submodule(parent), name, plain)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        return detach(self.model)

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Not possible for this method."""
        self._unload_and_optionally_merge(merge=True)


def _forget(model: Any, adapter_name: str) -> None:
    """Take an adapter off whose values could not be loaded, as if PEFT had not put it in."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    take_off(model, adapter_name)
    if isinstance(bare, PeftModel):  # wrapped twice, PEFT holds one table for both
        return
    model.peft_config.pop(adapter_name, None)
    if not model.peft_config:
        bare.__dict__.pop("peft_config", None)


def register() -> None:
    """Make the method known to PEFT; once."""
    if peft_type() not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(
            name=METHOD, config_cls=DeltaMemConfig, model_cls=DeltaMemModel, prefix=METHOD
        )


register()
