"""δ-mem as an adapter for any decoder of transformers.

The state is a value that rides in the cache; nothing is kept on modules:

    load_adapter(model, folder)
    cache = MemoryCache(model)
    model(input_ids, past_key_values=cache, delta_mem=MemoryCall(write=True))
    cache.memory
"""

from __future__ import annotations

from deltamem_agents.adapter.cache import MemoryCache
from deltamem_agents.adapter.call import MemoryCall
from deltamem_agents.adapter.config import DeltaMemConfig
from deltamem_agents.adapter.files import convert, load_adapter, save_adapter
from deltamem_agents.adapter.model import (
    adapter_config,
    adapter_fingerprint,
    adapter_parameters,
    attach,
    close_segments,
    detach,
)
from deltamem_agents.adapter.store import WriteRecord
from deltamem_agents.adapter.tuner import DeltaMemModel

__all__ = [
    "DeltaMemConfig",
    "DeltaMemModel",
    "MemoryCache",
    "MemoryCall",
    "WriteRecord",
    "adapter_config",
    "adapter_fingerprint",
    "adapter_parameters",
    "attach",
    "close_segments",
    "convert",
    "detach",
    "load_adapter",
    "save_adapter",
]
