"""Tiny models with an adapter that has an effect."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from deltamem_agents.adapter import DeltaMemConfig, adapter_parameters, attach

VOCABULARY = 97
STIRRED = {"beta_proj", "lambda_proj", *(f"delta_{name}_proj" for name in "qkvo")}


def make_backbone(**changes) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 12,
        "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": VOCABULARY,
        "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "initializer_range": 0.2,
    }  # fmt: skip
    return Qwen3ForCausalLM(Qwen3Config(**shape | changes)).eval()


def stir(model, std: float = 0.3):
    """Give gates and corrections values that matter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model):
            if name.rpartition(".")[2] in STIRRED:
                parameter.normal_(std=std, generator=generator)
    return model


def make_model(**config) -> Qwen3ForCausalLM:
    options = {"rank": 4, "heads": 2, "init": "random"} | config
    return stir(attach(make_backbone(), DeltaMemConfig(**options))).eval()


def make_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, shape, generator=generator)


@pytest.fixture
def backbone():
    return make_backbone


@pytest.fixture
def build():
    return make_model


@pytest.fixture
def tokens():
    return make_tokens


@pytest.fixture(scope="session")
def model():
    """One model for the tests that only run it."""
    return make_model()


@pytest.fixture
def stirred():
    return stir


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """The tiny backbone as a folder of transformers."""
    folder = tmp_path_factory.mktemp("base")
    make_backbone().save_pretrained(folder)
    return folder
