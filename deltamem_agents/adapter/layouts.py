"""Registry of attention modules whose projections are not simply q_proj, k_proj and v_proj.

For each family: which rows of which projection are queries, keys and values. Families that are not
here are taken to have a projection for each, of the usual names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Rows = tuple[int, ...]
Layout = dict[str, tuple[str, Rows]]


@dataclass(frozen=True)
class Heads:
    """Shape of an attention module: query heads, key-value heads, numbers a head."""

    query: int
    key_value: int
    size: int


def heads_of(attention: nn.Module, config: Any) -> Heads:
    """The shape of an attention module, as far as it or the model's configuration tell."""
    query = int(config.num_attention_heads)
    size = getattr(attention, "head_dim", None) or getattr(config, "head_dim", None)
    size = int(size or config.hidden_size // query)
    return Heads(query, int(getattr(config, "num_key_value_heads", None) or query), size)


def _blocks(module: str, *, grouped: bool = False) -> Callable[[nn.Module, Heads], Layout]:
    """All queries, then all keys, then all values; grouped: several queries share a key."""

    def layout(attention: nn.Module, heads: Heads) -> Layout:
        query = heads.query * heads.size
        other = heads.key_value * heads.size if grouped else query
        return {
            "q": (module, tuple(range(query))),
            "k": (module, tuple(range(query, query + other))),
            "v": (module, tuple(range(query + other, query + 2 * other))),
        }

    return layout


def _head_by_head(module: str) -> Callable[[nn.Module, Heads], Layout]:
    """For each head its query, its key, its value."""

    def layout(attention: nn.Module, heads: Heads) -> Layout:
        return {
            name: (module, _strided(heads.query, 3 * heads.size, i * heads.size, heads.size))
            for i, name in enumerate("qkv")
        }

    return layout


def _falcon(attention: Any, heads: Heads) -> Layout:
    """Falcon: groups of queries with their key and value; one group; or head by head."""
    module = "query_key_value"
    if attention.new_decoder_architecture:
        each = heads.query // attention.num_kv_heads
        group, groups = (each + 2) * heads.size, attention.num_kv_heads
    elif attention.multi_query:
        each, groups = heads.query, 1
        group = (each + 2) * heads.size
    else:
        return _head_by_head(module)(attention, heads)
    return {
        "q": (module, _strided(groups, group, 0, each * heads.size)),
        "k": (module, _strided(groups, group, each * heads.size, heads.size)),
        "v": (module, _strided(groups, group, (each + 1) * heads.size, heads.size)),
    }


def _gated_query(attention: nn.Module, heads: Heads) -> Layout:
    """For each head its query, then an output gate, which is none of ours."""
    return {"q": ("q_proj", _strided(heads.query, 2 * heads.size, 0, heads.size))}


def _strided(groups: int, stride: int, start: int, count: int) -> Rows:
    return tuple(g * stride + start + i for g in range(groups) for i in range(count))


#: By the configuration's `model_type`.
LAYOUTS: dict[str, Callable[[Any, Heads], Layout]] = {
    "phi3": _blocks("qkv_proj", grouped=True),
    "gpt2": _blocks("c_attn"),
    "mpt": _blocks("Wqkv"),
    "gpt_neox": _head_by_head("query_key_value"),
    "bloom": _head_by_head("query_key_value"),
    "persimmon": _head_by_head("query_key_value"),
    "falcon": _falcon,
    "qwen3_next": _gated_query,
    "qwen3_5_text": _gated_query,
    "qwen3_5_moe_text": _gated_query,
}
