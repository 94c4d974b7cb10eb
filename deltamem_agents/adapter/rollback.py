"""Keys and values as they were before a call that failed in the middle."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    StaticLayer,
    StaticSlidingWindowLayer,
)


class Before:
    """What it takes to undo a call.

    It holds no keys and values that the call would let go of, or they would need twice the room;
    only those of sliding windows that will forget what slides out of them, which are short.

    Args:
        cache: of the call.
        length: tokens that it holds.
        more: tokens that the call reads.
    """

    def __init__(self, cache: Cache, length: int, more: int) -> None:
        self._cache, self._length, self._more = cache, length, more
        self._windows: list[tuple[Any, ...]] = [
            (layer, layer.keys, layer.values, layer.cumulative_length)
            for layer in cache.layers
            if type(layer) is DynamicSlidingWindowLayer
            and layer.cumulative_length + more >= layer.sliding_window
        ]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the cache's layers."""
        return tuple(sorted({type(layer).__name__ for layer in self._cache.layers}))

    @property
    def reached(self) -> int | None:
        """Tokens that the cache holds when the call has run; None if it does not count them."""
        if torch.compiler.is_compiling():
            return None
        reached, counted = self._length + self._more, self._cache.get_seq_length()
        # A static cache counts on its device, where asking would stall; it counts all it reads.
        return reached if isinstance(counted, torch.Tensor) or counted == reached else None

    def restore(self) -> tuple[str, ...]:
        """Put the cache back.

        Returns:
            kinds of layers that cannot be put back: linear attention, quantized keys and values,
            static windows that have slid.
        """
        if self._length == 0:
            Cache.reset(self._cache)
            return ()
        for layer, keys, values, length in self._windows:
            layer.keys, layer.values, layer.cumulative_length = keys, values, length
        layers = self._cache.layers
        return tuple(sorted({type(x).__name__ for x in layers if not _cut(x, self._length)}))


def _cut(layer: Any, length: int) -> bool:
    """Take back what a layer has read beyond a length; False where that cannot be done."""
    kind = type(layer)
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        return False
    if kind is DummyLayer or int(layer.get_seq_length()) <= length:
        return True
    extra = int(layer.get_seq_length()) - length
    if kind in (DynamicLayer, DynamicIndexedLayer, DynamicSlidingWindowLayer):
        layer.crop(-extra)
    elif kind is StaticLayer:
        layer.cumulative_length.sub_(extra)
    elif kind is StaticSlidingWindowLayer and layer.cumulative_length_int <= layer.max_cache_len:
        layer.cumulative_length.sub_(extra)
        layer.cumulative_length_int -= extra
    else:
        return False
    return True
