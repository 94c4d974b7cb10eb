"""What a δ-mem adapter is made of: one configuration, checked when it is made, fixed afterwards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft import PeftConfig

from deltamem_agents.adapter.registration import peft_type
from deltamem_agents.errors import ConfigError

CORRECTIONS = ("q", "k", "v", "o")
UPDATES = ("standard", "lambda_outside", "no_lambda")
WRITES = ("token", "message", "sentence")
INITS = ("zero", "random", "base_slice", "base_slice_fixed")
SCALES_PER = ("layer", "head")

#: The fields that say what the adapter computes, in the order in which they are written to files.
#: PEFT's own bookkeeping (task type, base model name, ...) is not among them.
FIELDS = (
    "rank", "heads", "alpha", "corrections", "layers", "update", "write", "couple_lambda",
    "rankwise_gates", "normalize_qk", "beta_bias", "init", "init_scale", "init_width",
    "o_rmsnorm", "o_rmsnorm_eps", "trainable_scale", "scale_init", "scale_max", "scale_per",
)  # fmt: skip


@dataclass
class DeltaMemConfig(PeftConfig):  # type: ignore[misc]
    """Configuration of a δ-mem adapter; also a PEFT configuration.

    The fields below are frozen after construction. What PEFT keeps on a configuration
    (`base_model_name_or_path`, `inference_mode`, ...) stays writable, since PEFT writes it.

    Args:
        rank: R, size of a state, which is R x R.
        heads: N, independent states a layer; their reads are concatenated (paper eq. 16, MSW).
        alpha: the correction is scaled by alpha / rank (eqs. 7-9).
        corrections: which projections receive a correction, of "q", "k", "v", "o".
        layers: indices of the decoder layers with memory, or None for every attention layer.
        update: "standard" (keep, erase, write) = (lambda, beta, beta) (eqs. 10-12);
            "lambda_outside": (lambda, lambda beta, beta); "no_lambda": (1, beta, beta).
        write: "token" (TSW, eq. 13), "message" or "sentence" (SSW, eqs. 14-15): one write of the
            mean of a segment's hidden states.
        couple_lambda: lambda = 1 - beta; otherwise lambda has a gate of its own.
        rankwise_gates: one gate a row of the state; otherwise one a state head.
        normalize_qk: memory q and k are L2norm(tanh(.)) (eq. 4).
        beta_bias: initial bias of the write gate (-1.5: beta about 0.18); lambda's starts at minus
            this.
        init: start of the output projections: "zero"; "random" (kaiming uniform x init_scale);
            "base_slice" (the first R columns of the base weight, each L2-normalised, x init_scale);
            "base_slice_fixed" (the same, of at most init_width columns).
        init_scale: gain of the initialisation.
        init_width: see init.
        o_rmsnorm: RMSNorm with a trained weight on the o correction.
        o_rmsnorm_eps: its epsilon.
        trainable_scale: a trained factor scale_max * sigmoid(raw) on the corrections.
        scale_init: initial value of that factor.
        scale_max: its bound.
        scale_per: one factor a "layer", or one a "head" (here: one for each of q, k, v, o).
        modules_to_save: PEFT only: further modules that are trained and saved in full.
        target_modules: not a choice here, and None; the attention modules are found (see layers).

    Raises:
        ConfigError: a field breaks its rule, or is assigned to after construction.
    """

    rank: int = 8
    heads: int = 1
    alpha: float = 16.0
    corrections: tuple[str, ...] = ("q", "o")
    layers: tuple[int, ...] | None = None
    update: str = "standard"
    write: str = "token"
    couple_lambda: bool = True
    rankwise_gates: bool = True
    normalize_qk: bool = True
    beta_bias: float = -1.5
    init: str = "base_slice_fixed"
    init_scale: float = 0.05
    init_width: int = 8
    o_rmsnorm: bool = False
    o_rmsnorm_eps: float = 1e-6
    trainable_scale: bool = False
    scale_init: float = 1.0
    scale_max: float = 2.0
    scale_per: str = "layer"
    modules_to_save: list[str] | None = None
    target_modules: None = None

    stored = False  # no field: whether this was read from a folder, with the tensors beside it

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type()
        object.__setattr__(self, "corrections", _ordered(self.corrections))
        object.__setattr__(self, "layers", _layers(self.layers))
        _check(self)
        object.__setattr__(self, "_frozen", True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIELDS and self.__dict__.get("_frozen"):
            raise ConfigError(
                f"DeltaMemConfig.{name} is fixed after construction",
                got=value,
                remedy="Make another one: dataclasses.replace(config, ...).",
            )
        object.__setattr__(self, name, value)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Read what PEFT has saved, as any configuration of PEFT."""
        config = super().from_pretrained(*args, **kwargs)
        config.stored = True
        return config

    def canonical(self) -> dict[str, Any]:
        """The fields that say what the adapter computes, as plain JSON values."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_canonical(cls, values: Mapping[str, Any]) -> DeltaMemConfig:
        """The inverse of `canonical`.

        Raises:
            ConfigError: a field is missing, unknown or breaks its rule.
        """
        if unknown := sorted(set(values) - set(FIELDS)):
            raise ConfigError(
                "every key is a field of DeltaMemConfig",
                got=unknown,
                remedy="Remove these; a later version of deltamem-agents may know them.",
            )
        if missing := sorted(set(FIELDS) - set(values)):
            raise ConfigError(
                "every field of DeltaMemConfig is given",
                got=f"without {missing}",
                remedy="Add them; DeltaMemConfig().canonical() has every field.",
            )
        return cls(**values)

    @property
    def width(self) -> int:
        """R N, the width of a read."""
        return self.rank * self.heads

    @property
    def gates(self) -> int:
        """Number of write gates a layer."""
        return self.heads * (self.rank if self.rankwise_gates else 1)

    @property
    def by_segment(self) -> bool:
        """Whether writing needs segment boundaries."""
        return self.write != "token"


def _ordered(corrections: Any) -> tuple[str, ...]:
    given = list(corrections) if isinstance(corrections, Iterable) else []
    known = [name for name in given if isinstance(name, str) and name in CORRECTIONS]
    if not given or len(known) != len(given) or len(set(known)) != len(known):
        raise ConfigError(
            f"corrections is a non-empty choice of {CORRECTIONS}, each once",
            got=corrections,
            remedy=f"Leave it out for the default, {DeltaMemConfig.corrections}.",
        )
    return tuple(name for name in CORRECTIONS if name in given)


def _layers(layers: Any) -> tuple[int, ...] | None:
    if layers is None:
        return None
    given = list(layers) if isinstance(layers, Iterable) else []
    whole = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in given)
    if not given or not whole or len(set(given)) != len(given):
        raise ConfigError(
            "layers is None or a list of different layer indices from 0",
            got=layers,
            remedy="Leave it out for every layer.",
        )
    return tuple(sorted(given))


def _check(config: DeltaMemConfig) -> None:
    if config.target_modules is not None:
        raise ConfigError(
            "target_modules is None: attention modules are found by themselves",
            got=config.target_modules,
            remedy="Choose layers by DeltaMemConfig(layers=[...]).",
        )
    _check_numbers(config)
    choices = {"update": UPDATES, "write": WRITES, "init": INITS, "scale_per": SCALES_PER}
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(
                f"{name} is one of {allowed}",
                got=getattr(config, name),
                remedy=f"Leave it out for the default, {getattr(DeltaMemConfig, name)!r}.",
            )
    for option in dataclasses.fields(config):
        if option.name in FIELDS and isinstance(option.default, bool):
            value = getattr(config, option.name)
            if not isinstance(value, bool):
                raise ConfigError(
                    f"{option.name} is True or False",
                    got=value,
                    remedy=f"Leave it out for the default, {option.default}.",
                )


def _check_numbers(config: DeltaMemConfig) -> None:
    for name in ("rank", "heads", "init_width"):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"{name} is a whole number of at least 1",
                got=value,
                remedy=f"Leave it out for the default, {getattr(DeltaMemConfig, name)}.",
            )
    for name in ("alpha", "init_scale", "o_rmsnorm_eps", "scale_init", "scale_max", "beta_bias"):
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(
                f"{name} is a number",
                got=value,
                remedy=f"Leave it out for the default, {getattr(DeltaMemConfig, name)}.",
            )
        if not math.isfinite(value) or (value <= 0 and name not in ("beta_bias", "init_scale")):
            raise ConfigError(
                f"{name} is finite and above 0",
                got=value,
                remedy=f"Leave it out for the default, {getattr(DeltaMemConfig, name)}.",
            )
        object.__setattr__(config, name, float(value))
    if config.scale_init >= config.scale_max:
        raise ConfigError(
            "scale_init is below scale_max",
            got=(config.scale_init, config.scale_max),
            remedy="Lower scale_init, or raise scale_max.",
        )
