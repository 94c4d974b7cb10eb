"""δ-mem as a method of PEFT, beside LoRA and the others.

    model = get_peft_model(model, DeltaMemConfig())

Nothing is wrapped: the tuner layer sits inside the attention module, so that LoRA can be stacked
under or over it. Importing this file registers the method.
"""

from __future__ import annotations

from typing import Any, ClassVar

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.tuners.tuners_utils import delete_adapter as delete_everywhere
from peft.utils import AuxiliaryTrainingWrapper, register_peft_method
from torch import nn

from deltamem_agents.adapter.backbones import Site, find_sites
from deltamem_agents.adapter.config import DeltaMemConfig
from deltamem_agents.adapter.forward import install
from deltamem_agents.adapter.layer import DeltaMemLayer, add_memory, take_memory
from deltamem_agents.adapter.memory import DeltaMemory
from deltamem_agents.adapter.model import check_name, checked, detach, layers_of
from deltamem_agents.adapter.registration import METHOD, peft_type
from deltamem_agents.errors import ConfigError, UnsupportedModelError


class DeltaMemModel(BaseTuner):  # type: ignore[misc]
    """What `get_peft_model` makes of a `DeltaMemConfig`; see `peft.tuners.tuners_utils`."""

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
                take_memory(site, adapter_name)
            raise
        install(model, layers_of(model))

    def _create_and_replace(
        self, peft_config: DeltaMemConfig, adapter_name: str, target: nn.Module, *args: Any,
        current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        site: Site = self._sites[current_key]
        layer = add_memory(site, adapter_name, DeltaMemory(peft_config, site))
        layer._move_adapter_to_device_of_base_layer(adapter_name)
        if adapter_name not in self.active_adapters:
            layer[adapter_name].requires_grad_(False)

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


def register() -> None:
    """Make the method known to PEFT; once."""
    if peft_type() not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(
            name=METHOD, config_cls=DeltaMemConfig, model_cls=DeltaMemModel, prefix=METHOD
        )


register()
