"""Every golden case: what the released code computes, within 1e-4 on logits and 1e-5 on states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from deltamem_agents.adapter import MemoryCache, MemoryCall, detach, load_adapter

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def read_case(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "expected.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) < tolerance


def test_there_are_eight_cases():
    assert len(CASES) == 8


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_golden_case(case: str):
    folder = GOLDEN / case
    expected = read_case(folder)
    backbone = AutoModelForCausalLM.from_pretrained(folder / "backbone").eval()
    ids, mask, ids_2 = expected["input_ids"], expected["attention_mask"], expected["input_ids_2"]
    close(backbone(ids).logits, expected["logits_backbone"], 1e-4)
    model = load_adapter(backbone, folder / "adapter")
    config = json.loads((folder / "adapter" / "delta_mem_config.json").read_text())
    by_message = config["memory_write_granularity"] != "token"
    first = MemoryCall(segment_ids=expected["message_ids"]) if by_message else MemoryCall()
    second = MemoryCall(segment_ids=expected["message_ids_2"]) if by_message else MemoryCall()

    cache = MemoryCache(model)
    close(model(ids, past_key_values=cache, delta_mem=first).logits, expected["logits_1"], 1e-4)
    close(cache.memory, expected["states_1"], 1e-5)
    out = model(ids_2, past_key_values=cache, delta_mem=second)
    close(out.logits, expected["logits_2"], 1e-4)
    close(cache.memory, expected["states_2"], 1e-5)

    cache = MemoryCache(model, memory=expected["states_2"])
    out = model(ids_2, past_key_values=cache, delta_mem=MemoryCall(write=False))
    close(out.logits, expected["logits_read_only"], 1e-4)
    assert torch.equal(cache.memory, expected["states_2"])

    cache = MemoryCache(model)
    out = model(ids, attention_mask=mask, past_key_values=cache, delta_mem=first)
    real = mask.bool()
    close(out.logits[real], expected["logits_padded"][real], 1e-4)
    close(cache.memory, expected["states_padded"], 1e-5)

    close(detach(model)(ids).logits, expected["logits_backbone"], 1e-4)
