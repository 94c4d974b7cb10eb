"""The built-in backbone: a small Qwen3, started where binding is quick to learn.

From the usual small random start a model of this size stays for long on a plateau where it knows
which words are values but not whose they are. This start leaves it within a million tokens:
  - embeddings with standard deviation 0.5, so that a token's identity is not drowned;
  - the first layer's heads look 1, 2, 3 and 4 tokens back (a constant in one coordinate of the
    embedding, rotated by RoPE, makes a head prefer one offset);
  - above it queries equal keys and outputs are the transpose of values: attention starts as a
    lookup of equal content that copies what it finds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

CONSTANT = 1.5
OFFSET_FREQUENCIES = 3


def build_backbone(
    vocabulary: int,
    *,
    hidden: int = 192,
    layers: int = 4,
    heads: int = 4,
    key_value_heads: int = 2,
    head: int = 64,
    intermediate: int = 512,
) -> Qwen3ForCausalLM:
    """A Qwen3 of 4.1 million parameters with the built-in vocabulary, started as described, fp32.

    Draws from torch's global generator: call `torch.manual_seed` first.
    """
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head,
        intermediate_size=intermediate,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        attn_implementation="eager",
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: Qwen3ForCausalLM) -> None:
    config = model.config
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "embed" not in name and "lm_head" not in name:
            gain = 0.5 if "o_proj" in name or "down_proj" in name else 1.0
            nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]))
    embedding = model.model.embed_tokens.weight
    nn.init.normal_(embedding, std=0.5)
    embedding[:, 0] = CONSTANT
    model.model.norm.weight.fill_(0.07)  # logits of order 1 in spite of the large embeddings
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        groups = config.num_attention_heads // config.num_key_value_heads
        values = _orthonormal(attention.v_proj.weight)
        attention.v_proj.weight.copy_(values)
        attention.o_proj.weight.copy_(0.6 * _per_head(values, groups, config.head_dim).T)
        if index == 0:
            _look_back(attention, config)
        else:
            keys = _orthonormal(attention.k_proj.weight)
            attention.k_proj.weight.copy_(keys)
            attention.q_proj.weight.copy_(_per_head(keys, groups, config.head_dim))
            attention.q_norm.weight.fill_(1.4)
            attention.k_norm.weight.fill_(1.4)


def _orthonormal(weight: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(torch.randn(weight.shape[1], weight.shape[0]))[0]
    return basis.T


def _per_head(weight: Tensor, groups: int, head: int) -> Tensor:
    """Repeat the rows of each key-value head for the query heads that share it."""
    parts = weight.view(-1, head, weight.shape[1]).repeat_interleave(groups, 0)
    return parts.reshape(-1, weight.shape[1])


def _look_back(attention: Any, config: Qwen3Config) -> None:
    """Make head j prefer the token j + 1 back.

    The constant coordinate gives every key the same vector u on the fastest rotary planes; the
    query is u rotated by the offset, so that after RoPE their product peaks there.
    """
    head, half = config.head_dim, config.head_dim // 2
    planes = OFFSET_FREQUENCIES
    speeds = 1e6 ** (-torch.arange(0, head, 2).float() / head)[:planes]
    attention.q_proj.weight.mul_(0.15)
    attention.k_proj.weight.mul_(0.15)
    for group in range(config.num_key_value_heads):
        attention.k_proj.weight[group * head : group * head + planes, 0] += 1.0
    for index in range(config.num_attention_heads):
        offset = index + 1
        query = torch.zeros(head)
        query[:planes] = torch.cos(speeds * offset)
        query[half : half + planes] = -torch.sin(speeds * offset)
        attention.q_proj.weight[index * head : (index + 1) * head, 0] += query
