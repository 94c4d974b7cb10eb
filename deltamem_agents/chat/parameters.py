"""The parameters of ChatDeltaMem."""

from __future__ import annotations

from typing import Any, Self

from langchain_core.language_models import BaseChatModel
from pydantic import ConfigDict, Field, model_validator

from deltamem_agents.errors import ConfigError
from deltamem_agents.runtime.slot import MemorySlot
from deltamem_agents.runtime.template import WritePolicy

_HOSTED = {"api_key", "base_url", "max_retries"}  # of hosted models: accepted, without effect here

_DEFAULTED = ("temperature", "top_p", "top_k", "repetition_penalty")  # None means the default


class ChatParameters(BaseChatModel):
    """What a `ChatDeltaMem` is made with; unknown names are refused."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: Any = Field(default=None, exclude=True)
    """A folder, a name on the hub, a loaded model or an `Engine`; None for the built-in one."""
    adapter: Any = Field(default=None, exclude=True)
    """A folder or a name on the hub; None with the built-in model, or with a loaded one that has
    its adapter."""
    tokenizer: Any = Field(default=None, exclude=True)
    """For a loaded model: its tokenizer."""
    device: str | None = None
    """Such as "cpu" or "cuda"; None takes CUDA where there is one."""
    dtype: Any = None
    """Of the backbone: "float32", "bfloat16", "float16" or "auto"; `torch_dtype` is the same."""
    attn_implementation: str | None = None
    """As in transformers; None takes flash_attention_2 where it runs, else sdpa."""
    device_map: Any = None
    """As in transformers."""
    quantization: str | None = None
    """Either "4bit" or "8bit", where bitsandbytes is installed."""
    context_window: int | None = None
    """Most visible tokens of a prompt; None for half of the model's positions."""
    low_water: int | None = None
    """Visible tokens down to which turns leave when the window is full; None for half of it."""
    template: str | None = None
    """The name of a shipped chat template, or a Jinja text; None for the tokenizer's."""
    write_policy: WritePolicy | None = None
    """Which tokens are written to memory; None for all."""
    thinking: bool | None = None
    """Whether the model may reason first; None leaves it to its template."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together have at least this probability."""
    top_k: int = 0
    """Keep this many of the likeliest tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens in view less likely."""
    seed: int | None = None
    """Makes sampling repeatable."""
    max_tokens: int | None = None
    """Most tokens of a reply; None for what the model's positions allow."""
    stop: list[str] | str | None = None
    """Strings that end a reply; they are not part of it."""
    timeout: float | None = None
    """Most seconds of a call."""
    streaming: bool | None = None
    """True makes `invoke` run through the streaming path."""
    on_divergence: str = "raise"
    """What a changed past means: "raise", or "rebuild" from the boundary where that is possible."""
    live_bytes: int = 2**30
    """Bytes of keys and values kept of recent conversations."""
    queue_size: int = 256
    """Most calls in work or waiting."""
    slot: MemorySlot | None = Field(default=None, exclude=True, repr=False)
    """One call's memory; `with_memory` binds it."""

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = set(cls.model_fields) | {"torch_dtype"} | _HOSTED
            if unknown := sorted(set(values) - known):
                raise ConfigError(
                    "ChatDeltaMem's parameters are those in its documentation",
                    got=unknown,
                    remedy="Leave it out; help(ChatDeltaMem) lists them all.",
                )
            unset = {name for name in _DEFAULTED if values.get(name, 0) is None}
            values = {name: value for name, value in values.items() if name not in unset}
            if "torch_dtype" in values:
                values = {"dtype": values["torch_dtype"], **values}
                del values["torch_dtype"]
        return values

    @model_validator(mode="after")
    def _never_cached_with_a_memory(self) -> Self:
        if self.slot is not None:
            self.cache = False  # an answer from a cache would leave no memory
        return self
