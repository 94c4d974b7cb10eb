"""The built-in model's recipe: from nothing to a folder that is served."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from deltamem_agents.runtime.loading import load_engine
from deltamem_agents.training.builtin import STAGES, Recipe, train
from deltamem_agents.training.stage import StageConfig
from deltamem_agents.training.twins import twins


def test_a_recipe_makes_a_model_that_is_served(tmp_path: Path) -> None:
    stages = (
        StageConfig(name="first", steps=2, tokens=300, unheard=0.5),
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
    pairs = twins(tokenizer)
    assert len(pairs) > 900
    offsets = table[pairs[:, 0]] - table[pairs[:, 1]]
    torch.testing.assert_close(offsets, offsets.mean(0).expand_as(offsets))
    assert table[pairs[:, 1]].std() > 0.3  # the words themselves do differ


def test_every_stage_has_a_name_of_its_own_and_the_backbone_rests_in_the_last() -> None:
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    assert [stage.train_backbone for stage in STAGES] == [True] * (len(names) - 1) + [False]
