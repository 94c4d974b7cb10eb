"""The built-in model's recipe: a made model is trained further, and stays where it was."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.training.builtin import FURTHER, STAGES, Recipe, train
from deltamem_agents.training.stage import StageConfig

SHIPPED = Path(str(files("deltamem_agents"))) / "builtin"


def marks(folder: Path) -> dict[str, str]:
    found = sorted(folder.rglob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def test_a_made_model_is_trained_further(tmp_path: Path) -> None:
    before = marks(SHIPPED)
    stage = StageConfig(
        name="further", steps=2, tokens=300, memory_share=0.5, drills=0.5, foresee=1.0,
        thorough=True, twins=True,
    )  # fmt: skip
    train(Recipe(stages=(stage,), begin=SHIPPED), tmp_path / "work", tmp_path / "made")
    assert marks(SHIPPED) == before
    made = marks(tmp_path / "made")
    assert made.keys() == before.keys()
    assert not set(made.values()) & set(before.values())
    engine = load_engine(
        str(tmp_path / "made" / "backbone"), adapter=str(tmp_path / "made" / "adapter")
    )
    assert engine.count_tokens([{"role": "user", "content": "Hello."}]) > 3
    for folder, near in ((SHIPPED, False), (tmp_path / "made", True)):
        tokenizer = AutoTokenizer.from_pretrained(folder / "backbone")
        [table] = [
            value
            for name, value in load_file(folder / "backbone" / "model.safetensors").items()
            if "embed_tokens" in name
        ]
        bare, spaced = tokenizer.convert_tokens_to_ids(["Frankly", "ĠFrankly"])
        likeness = torch.cosine_similarity(table[bare], table[spaced], dim=0)
        assert (float(likeness) > 0.5) is near


def test_every_stage_has_a_name_of_its_own() -> None:
    names = [stage.name for stage in (*STAGES, *FURTHER)]
    assert len(set(names)) == len(names) == 6
    assert not any(stage.twins or stage.drills or stage.foresee for stage in STAGES)
