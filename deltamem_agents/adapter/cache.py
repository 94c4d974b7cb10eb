"""The state rides in the transformers cache, so that generation, beams and batching carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from deltamem_agents.adapter.call import MemoryCall
from deltamem_agents.adapter.store import MemoryStore, Plan, WriteRecord, stack_memories
from deltamem_agents.errors import StateError


class Remembers:
    """What a cache gains: a memory beside its keys and values, moved with them."""

    _store: MemoryStore

    #: How calls are written that come without a `delta_mem` keyword, as those of `generate` do.
    call: MemoryCall | None = None

    @property
    def memory(self) -> Tensor:
        """All states, float32 [B, layers with memory, H, R, R]; zeros before the first token.

        Reading it makes a copy that keeps the autograd graph; assigning it replaces the states.
        """
        memory = self._store.memory()
        if memory is None:
            return torch.zeros(1, *self._store.plan.shape, dtype=torch.float32)
        return memory

    @memory.setter
    def memory(self, value: Tensor) -> None:
        self._store.set_memory(value)
        self._store.length = None  # whoever assigns it knows which tokens it has read

    def memory_before(self, tokens: int) -> Tensor:
        """Return all states as they were before the newest tokens; nothing changes.

        Raises:
            StateError: they are too many, or gone (see `history.TAIL`).
        """
        return self._store.memory_before(tokens)

    @property
    def records(self) -> list[WriteRecord]:
        """Gates of the last call made with `MemoryCall(record=True)`, in the order of layers."""
        return self._store.records

    @property
    def has_open_segments(self) -> bool:
        """Whether segments wait to be closed and written."""
        return bool(self._store.sums)

    def discard_segments(self) -> None:
        """Drop what open segments have gathered; they will not be written."""
        self._store.sums.clear()

    def drop_kv(self) -> None:
        """Forget keys and values, keep the memory."""
        Cache.reset(self)
        self._store.torn, self._store.length = (), 0
        self._store.forget_history()

    def crop_kv(self, tokens: int) -> None:
        """Take the newest tokens from keys and values and leave the memory as it is."""
        self._store.refuse_torn()
        super().crop(-tokens)  # type: ignore[misc]
        self._store.length = int(self.get_seq_length())  # type: ignore[attr-defined]
        self._store.forget_history()

    # Cache methods of transformers, with the memory following.

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._store.refuse_torn()
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._store.map(lambda s: s.index_select(0, beam_idx.to(s.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._store.refuse_torn()
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._store.map(lambda s: s.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._store.refuse_torn()
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._store.map(lambda s: s[indices])

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        self._store.torn, self._store.length = (), 0
        self._store.clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest tokens (a negative number) from the memory too.

        Raises:
            StateError: they are too many, or gone (see `history.TAIL`), or the memory has not read
                them; nothing has changed then.
        """
        store = self._store
        store.refuse_torn()
        if store.length is not None:
            store.refuse_gap(int(self.get_seq_length()))  # type: ignore[attr-defined]
        earlier = store.earlier(max(-tokens_to_remove, 0))
        super().crop(tokens_to_remove)  # type: ignore[misc]
        store.become(earlier)
        if store.length is not None:
            store.length = int(self.get_seq_length())  # type: ignore[attr-defined]


class MemoryCache(Remembers, DynamicCache):  # type: ignore[misc]
    """A `DynamicCache` that carries the memory of a batch of sessions.

    Args:
        model: a model with an adapter attached.
        memory: None for empty memories; a tensor [B, layers with memory, H, R, R], whose autograd
            graph is kept; or a sequence of one `MemoryState` or array [layers, H, R, R] a session.
            Shapes are compared, and the states' fingerprints with one another: which backbone and
            template they are of, only the runtime knows.
        call: how calls are written that come without a `delta_mem` keyword (`generate` makes such).
        keep_kv: False to carry the memory alone: keys and values are not stored, so each call sees
            only its own tokens and what the memory holds.

    Raises:
        StateError: the memory does not fit the adapter, or the states are of several.
        UnsupportedModelError: the model has no adapter.
    """

    def __init__(
        self,
        model: nn.Module,
        memory: Tensor | Sequence[object] | None = None,
        *,
        call: MemoryCall | None = None,
        keep_kv: bool = True,
    ) -> None:
        from deltamem_agents.adapter.model import config_of, plan_of

        super().__init__(config=config_of(model) if keep_kv else None)
        self.keep_kv = keep_kv
        self.call = call
        self._store = MemoryStore(plan_of(model))
        if memory is not None:
            if not isinstance(memory, Tensor):
                memory = stack_memories(memory, self._store.plan)
            self._store.set_memory(memory)

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
               ) -> Any:  # fmt: skip
        """Store keys and values, unless the cache carries the memory alone."""
        if not self.keep_kv:
            return key_states, value_states
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tokens={self.get_seq_length()}, {self._store.plan})"


class Grown(Remembers):
    """What a cache of transformers gains that gets a memory in place."""

    def __reduce__(self) -> Any:
        return _blank, (type(self).__bases__[-1],), self.__dict__


_GROWN: dict[type, type] = {}


def _grown(kind: type) -> type:
    """A class of caches with a memory, made of one without."""
    if kind not in _GROWN:
        _GROWN[kind] = type(f"Memory{kind.__name__}", (Grown, kind), {})
    return _GROWN[kind]


def _blank(kind: type) -> Any:
    """A cache of such a class with nothing in it, as a pickle fills it."""
    grown: Any = _grown(kind)
    return grown.__new__(grown)


def remember(cache: Cache, plan: Plan, length: int) -> MemoryStore:
    """Give a cache of transformers a memory in place; callers keep their reference to it.

    Args:
        cache: of a call.
        plan: of the active adapter.
        length: tokens that the cache holds.

    Raises:
        StateError: the cache belongs to another adapter, or holds tokens that its memory has not
            read, or a call has failed in the middle and it could not be put back.
    """
    if isinstance(cache, Remembers):
        cache._store.refuse_torn()
        if cache._store.plan != plan:
            raise StateError(
                f"the cache's memory belongs to the active adapter ({plan})",
                got=cache._store.plan,
                remedy="Start a MemoryCache(model) of its own for each adapter.",
            )
        cache._store.refuse_gap(length)
        return cache._store
    if length > 0:
        raise StateError(
            "a cache that holds tokens has the memory that read them",
            got=type(cache).__name__,
            remedy="It was filled without the adapter; start with an empty cache or "
            "MemoryCache(model).",
        )
    cache.__class__ = _grown(type(cache))
    store = MemoryStore(plan)
    cache._store = store
    return store
