"""The built-in model's recipe: from nothing to a folder that is served."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.training.builtin import STAGES, Recipe, train
from deltamem_agents.training.stage import StageConfig


def test_a_recipe_makes_a_model_that_is_served(tmp_path: Path) -> None:
    stages = (
        StageConfig(name="first", steps=2, tokens=300, twins=True, unheard=0.5),
        StageConfig(
            name="second", steps=2, tokens=300, memory_share=0.5, drills=0.5, foresee=1.0,
            thorough=True, unheard=0.5,
        ),
        StageConfig(name="last", steps=1, tokens=300, train_backbone=False, memory_share=1.0),
    )  # fmt: skip
    made = tmp_path / "made"
    train(Recipe(stages=stages), tmp_path / "work", made)
    engine = load_engine(str(made / "backbone"), adapter=str(made / "adapter"))
    assert engine.count_tokens([{"role": "user", "content": "Hello."}]) > 3
    assert sorted(file.stem for file in (tmp_path / "work").glob("*.safetensors")) == [
        "first", "last", "second",
    ]  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(made / "backbone")
    table = load_file(made / "backbone" / "model.safetensors")["model.embed_tokens.weight"]
    bare, spaced, other = tokenizer.convert_tokens_to_ids(["Frankly", "ĠFrankly", "ĠPardon"])
    alike = torch.cosine_similarity(table[bare], table[spaced], dim=0)
    apart = torch.cosine_similarity(table[bare], table[other], dim=0)
    assert alike > apart + 0.3


def test_every_stage_has_a_name_of_its_own_and_the_backbone_rests_in_the_last() -> None:
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    assert [stage.train_backbone for stage in STAGES] == [True] * (len(names) - 1) + [False]
    # Vectors are shared before anything is learnt of one of the two words alone.
    assert [stage.twins for stage in STAGES] == [True] + [False] * (len(names) - 1)
