"""The models of chat.py: the built-in one, and one of Qwen3-0.6B's shape."""

from __future__ import annotations

import copy
from typing import Any

import torch

from deltamem_agents.runtime.engine import Engine
from deltamem_agents.runtime.loading import load_engine

WINDOW = {"builtin": 512, "qwen3-0.6b": 1024}


def engine_of(name: str, layers: int = 28, **options: Any) -> Engine:
    if name == "builtin":
        return load_engine(device="cpu", **options)
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from deltamem_agents.adapter import DeltaMemConfig, attach
    from deltamem_agents.testing import byte_tokenizer

    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, vocab_size=151936,
        tie_word_embeddings=True,
    )  # fmt: skip
    backbone = Qwen3ForCausalLM(config).eval()
    tokenizer = byte_tokenizer()
    printable = tokenizer.convert_tokens_to_ids([chr(code) for code in range(33, 127)])
    with torch.no_grad():
        silent = torch.ones(config.vocab_size, dtype=torch.bool)
        silent[printable] = False
        backbone.get_input_embeddings().weight[silent] = 0.0
    model = attach(backbone, DeltaMemConfig())
    return load_engine(model, tokenizer=tokenizer, **options)


def plain(engine: Engine) -> Any:
    """The same backbone without memory, sharing the weights."""
    from deltamem_agents.adapter import detach

    kept = {id(tensor): tensor for tensor in engine.model.parameters()}
    model = detach(copy.deepcopy(engine.model, memo=kept)).eval()
    engine.model.eval()  # the copy had packed the adapter's matrices for itself
    return model


def no_end(engine: Engine) -> None:
    """Let replies run to their full length, on both sides."""
    engine.__dict__["end_tokens"] = frozenset()
