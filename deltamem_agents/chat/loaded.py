"""A chat model's engine, and what it says of itself: to caches, traces and LangChain's profiles."""

from __future__ import annotations

from typing import Any, Self

from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from pydantic import PrivateAttr

from deltamem_agents.chat.engines import shared_engine
from deltamem_agents.chat.parameters import ChatParameters
from deltamem_agents.runtime.engine import Engine

# What an answer depends on, beside the model and what it is asked.
_TELLING = (
    "temperature", "top_p", "top_k", "repetition_penalty", "seed", "max_tokens", "stop", "thinking",
    "quantization", "output_version",
)  # fmt: skip


class LoadedChat(ChatParameters):
    """Parameters together with the engine that they name."""

    _engine: Engine | None = PrivateAttr(default=None)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        _ = self.engine  # typed errors of loading come from here, not wrapped by pydantic

    @property
    def engine(self) -> Engine:
        """The loaded model; shared by models made with the same arguments."""
        if self._engine is None:
            self._engine = shared_engine(self)
        return self._engine

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the parameters; the model itself, and a memory bound to it, are shared."""
        memo = {} if memo is None else memo
        for shared in (self._engine, self.model, self.tokenizer, self.slot):
            memo[id(shared)] = shared
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """The parameters; who unpickles them loads the model, or shares it."""
        state: dict[Any, Any] = super().__getstate__()
        return {**state, "__pydantic_private__": {"_engine": None}}

    @property
    def _llm_type(self) -> str:
        return "deltamem"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        engine = self.engine
        return {
            "model": engine.name,
            "fingerprint": engine.fingerprint,
            "context_window": engine.context_window,
            "low_water": engine.low_water,
            "dtype": str(engine.model.dtype),
            **{name: getattr(self, name) for name in _TELLING},
        }

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        params: dict[str, Any] = super()._get_invocation_params(stop, **kwargs)
        return {**params, "stop": self._stops(stop)}  # a cache's key: also where the call has none

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        name = kwargs.get("model") or self.engine.name
        params = LangSmithParams(
            ls_provider="deltamem",
            ls_model_name=str(name),
            ls_model_type="chat",
            ls_temperature=kwargs.get("temperature", self.temperature),
        )
        if most := kwargs.get("max_tokens", self.max_tokens):
            params["ls_max_tokens"] = most
        if stops := self._stops(stop):
            params["ls_stop"] = stops
        return params

    def _stops(self, stop: list[str] | str | None) -> list[str] | None:
        stops = self.stop if stop is None else stop
        return [stops] if isinstance(stops, str) else stops

    def _resolve_model_profile(self) -> ModelProfile | None:
        engine = self.engine
        return ModelProfile(
            name=engine.name,
            open_weights=True,
            max_input_tokens=engine.context_window,
            max_output_tokens=engine.max_positions - engine.context_window,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            reasoning_output=engine.template.reasons,
        )
