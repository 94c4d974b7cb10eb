"""The built-in model, made from nothing: tokenizer, backbone, memory.

    python -m deltamem_agents.training.builtin --output deltamem_agents/builtin
    python -m deltamem_agents.training.builtin --begin deltamem_agents/builtin --output FOLDER

Three stages train the backbone. Two in five of their batches are plain language modelling with the
whole conversation in view; in the others attention is cut into blocks and a memory carries what
crosses them, so that the backbone's hidden states are ones that a memory can use. A fourth stage
freezes the backbone and trains the memory alone on longer and fuller conversations. All can be
killed at any moment and go on from their last snapshot.

The second command trains a made model further, to obey its system prompt: see `FURTHER`. What ships
is made by the first alone.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
)

from deltamem_agents.adapter import DeltaMemConfig, attach, detach, load_adapter, save_adapter
from deltamem_agents.adapter.model import adapter_parameters, layers_of
from deltamem_agents.adapter.ours import check_finite
from deltamem_agents.runtime.template import ChatTemplate, shipped
from deltamem_agents.training.backbone import build_backbone
from deltamem_agents.training.curriculum import Curriculum
from deltamem_agents.training.rows import Tokeniser
from deltamem_agents.training.stage import Stage, StageConfig
from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.twins import share_twins, twins
from deltamem_agents.training.world import World

MEMORY = DeltaMemConfig(rank=16, heads=4, alpha=16.0, update="no_lambda", init_width=64)
STAGES = (
    # Copying a value into the confirming sentence comes first, on few facts ...
    StageConfig(name="copying", steps=800, tokens=4000, hold=1.0),
    # ... then more of them, most of the same attribute, falling to rest ...
    StageConfig(
        name="binding", steps=1200, level=2, plain_level=3, alike=0.6, hold=0.5,
        instructed=0.12, unknown=0.3, updates=0.25,
    ),
    # ... then system prompts that are obeyed, in half of the conversations ...
    StageConfig(
        name="instructing", steps=550, matrices=0.008, vectors=3e-3, gates=5e-3, level=3,
        plain_level=4, alike=0.5, hold=0.5, instructed=0.5, unknown=0.3, updates=0.25, decline=3.0,
    ),
    # ... then the memory alone, on the frozen backbone, through long talk.
    StageConfig(
        name="memory", steps=200, matrices=0.01, memory_share=1.0, train_backbone=False,
        warm_up=20, level=6, alike=0.5, instructed=0.15, unknown=0.35, updates=0.25, decline=3.0,
    ),
)  # fmt: skip
FURTHER = (
    # A word gets one vector with and without a space, copying is drilled, and the tokens before a
    # reply foresee what is known, so that its first word can refuse.
    StageConfig(
        name="obeying", steps=1200, level=3, plain_level=3, memory_share=0.4, drills=0.4,
        foresee=1.0, alike=0.5, hold=0.5, instructed=0.5, unknown=0.4, updates=0.25, decline=3.0,
        thorough=True, twins=True,
    ),
    StageConfig(
        name="settling", steps=280, matrices=0.008, memory_share=1.0, train_backbone=False,
        warm_up=20, level=4, foresee=0.5, alike=0.5, instructed=0.2, unknown=0.5, updates=0.25,
        decline=6.0, thorough=True, hold=0.4,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What decides the outcome.

    Args:
        seed: of the world, the weights and the order of batches.
        stages: run one after the other on the same model.
        memory: the adapter.
        begin: the output of an earlier run, whose model and memory are trained; None: new ones.
    """

    seed: int = 0
    stages: tuple[StageConfig, ...] = STAGES
    memory: DeltaMemConfig = field(default_factory=lambda: MEMORY)
    begin: Path | None = None


def train(recipe: Recipe, work: Path, output: Path) -> None:
    """Run the recipe, keeping snapshots in `work`, and write the model to `output`.

    `output` gets `backbone/` (a transformers folder) and `adapter/`; each is replaced whole.
    """
    torch.manual_seed(recipe.seed)
    if recipe.begin is None:
        tokenizer = build_tokenizer(recipe.seed)
        model = build_backbone(len(tokenizer))
        attach(model, recipe.memory)
    else:
        place = recipe.begin / "backbone"
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = Qwen3ForCausalLM.from_pretrained(
            place, dtype=torch.float32, attn_implementation="eager"
        )
        load_adapter(model, recipe.begin / "adapter")
    tokeniser = Tokeniser(ChatTemplate(tokenizer, "chatml"))
    for number, config in enumerate(recipe.stages, 0 if recipe.begin is None else len(STAGES)):
        seed = 1000 * (recipe.seed + 1) + number
        with_memory, plain = (
            Curriculum(
                World(drawn), tokeniser, tokens=config.tokens, promote=mark, level=level,
                alike=config.alike, instructed=config.instructed,
                unknown=config.unknown, updates=config.updates, thorough=config.thorough,
            )
            for drawn, mark, level in (
                (seed, config.promote, config.level), (seed + 500, 0.8, config.plain_level)
            )
        )  # fmt: skip
        if config.twins:
            share_twins(model.model.embed_tokens, twins(tokenizer), _counts(tokeniser, seed + 900))
        Stage(model, config, with_memory, plain, work, seed).run()
    export(model, tokenizer, output)


def _counts(tokeniser: Tokeniser, seed: int) -> Counter[int]:
    """How often each token stands in a sample of conversations."""
    sample = Curriculum(World(seed), tokeniser, tokens=40_000, level=3, instructed=0.4)
    rows = sample.batch(memory=True)
    return Counter(rows.ids[rows.real].tolist())


def export(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write backbone, tokenizer and adapter; the model is left without its adapter."""
    for layer in layers_of(model):
        # A last batch without memory has switched them off.
        layer.enable_adapters(True)  # type: ignore[operator]
    check_finite(dict(adapter_parameters(model)))
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_adapter(model, fresh / "adapter")
    detach(model)
    model.config.bos_token_id = None
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(fresh / "backbone")
    tokenizer.chat_template = shipped("chatml")
    tokenizer.save_pretrained(fresh / "backbone")
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them private; a package is for everybody
    for part in ("backbone", "adapter"):
        shutil.rmtree(output / part, ignore_errors=True)
        output.mkdir(parents=True, exist_ok=True)
        (fresh / part).rename(output / part)
    shutil.rmtree(fresh)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("deltamem_agents/builtin"))
    parser.add_argument("--work", type=Path, default=Path("runs/builtin"))
    parser.add_argument("--begin", type=Path, help="train a made model further")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stages = STAGES if arguments.begin is None else FURTHER
    recipe = Recipe(seed=arguments.seed, stages=stages, begin=arguments.begin)
    train(recipe, arguments.work, arguments.output)


if __name__ == "__main__":
    main()
