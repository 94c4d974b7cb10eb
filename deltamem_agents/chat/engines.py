"""Engines that chat models share: the same arguments load the same model once."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from deltamem_agents.runtime.engine import Engine

if TYPE_CHECKING:
    from deltamem_agents.chat.parameters import ChatParameters

_ARGUMENTS = (
    "model", "adapter", "device", "dtype", "attn_implementation", "device_map", "quantization",
    "context_window", "low_water", "template", "write_policy", "live_bytes", "queue_size",
)  # fmt: skip
_BUILT_IN = "deltamem-tiny"
_engines: WeakValueDictionary[str, Engine] = WeakValueDictionary()
_built_in: dict[str, Engine] = {}  # small, so the latest one stays loaded
_lock = threading.Lock()


def shared_engine(chat: ChatParameters) -> Engine:
    """Load the engine of a chat model, or share that of one made with the same arguments."""
    from deltamem_agents.runtime.loading import load_engine

    if isinstance(chat.model, Engine):
        return chat.model
    arguments = {name: getattr(chat, name) for name in _ARGUMENTS}
    if not isinstance(chat.model, (str, type(None))) and not hasattr(chat.model, "__fspath__"):
        return load_engine(tokenizer=chat.tokenizer, **arguments)
    # An engine keeps its tokenizer alive, and with it the tokenizer's id.
    named = {**arguments, "tokenizer": None if chat.tokenizer is None else id(chat.tokenizer)}
    key = json.dumps(named, default=str, sort_keys=True)
    with _lock:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = load_engine(tokenizer=chat.tokenizer, **arguments)
        if chat.model is None:
            engine.name = _BUILT_IN  # and not the folder where it is installed
        if chat.model is None and chat.tokenizer is None and key not in _built_in:
            _built_in.clear()
            _built_in[key] = engine
    return engine
