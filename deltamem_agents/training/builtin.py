"""The built-in model, made from nothing: tokenizer, backbone, memory.

    python -m deltamem_agents.training.builtin --seed 1 --output deltamem_agents/builtin

Three stages train the backbone. In two to three of five of their batches attention is cut into
blocks and a memory carries what crosses them, so that the backbone's hidden states are ones that a
memory can use; in the others, drills among them, a whole conversation is in view. A fourth stage
freezes the backbone and trains the memory alone. All can be killed at any moment and go on from
their last snapshot. Seed 1 made the model that ships.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from deltamem_agents.adapter import DeltaMemConfig, attach, detach, save_adapter
from deltamem_agents.adapter.model import adapter_parameters, layers_of
from deltamem_agents.adapter.ours import check_finite
from deltamem_agents.runtime.template import ChatTemplate, shipped
from deltamem_agents.training.backbone import build_backbone
from deltamem_agents.training.curriculum import Curriculum
from deltamem_agents.training.rows import Tokeniser
from deltamem_agents.training.stage import Stage, StageConfig
from deltamem_agents.training.tokenizer import build_tokenizer
from deltamem_agents.training.twins import begin_twins, twins
from deltamem_agents.training.world import World

MEMORY = DeltaMemConfig(rank=16, heads=4, alpha=16.0, update="no_lambda", init_width=64)
STAGES = (
    # Copying a value into the confirming sentence comes first, on few facts ...
    StageConfig(name="copying", steps=800, tokens=4000, hold=1.0, unheard=0.2),
    # ... then more of them, most of the same attribute ...
    StageConfig(
        name="binding", steps=1000, level=2, plain_level=3, alike=0.6, hold=0.7,
        instructed=0.12, unknown=0.3, updates=0.25, unheard=0.35,
    ),
    # ... then system prompts that are obeyed, copying drilled, and the tokens before a reply
    # foresee what is known, so that its first word can refuse ...
    StageConfig(
        name="obeying", steps=1300, level=3, plain_level=3, memory_share=0.4, drills=0.4,
        foresee=1.0, alike=0.5, hold=0.4, instructed=0.5, unknown=0.4, updates=0.25, decline=3.0,
        thorough=True, unheard=0.35,
    ),
    # ... then the memory alone, on the frozen backbone, through long talk.
    StageConfig(
        name="settling", steps=280, matrices=0.008, memory_share=1.0, train_backbone=False,
        warm_up=20, level=4, foresee=0.5, alike=0.5, instructed=0.2, unknown=0.5, updates=0.25,
        decline=6.0, thorough=True, hold=0.4, unheard=0.2,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What decides the outcome.

    Args:
        seed: of the world, the weights and the order of batches.
        stages: run one after the other on the same model.
        memory: the adapter.
    """

    seed: int = 0
    stages: tuple[StageConfig, ...] = STAGES
    memory: DeltaMemConfig = field(default_factory=lambda: MEMORY)


def train(recipe: Recipe, work: Path, output: Path) -> None:
    """Run the recipe, keeping snapshots in `work`, and write the model to `output`.

    `output` gets `backbone/` (a transformers folder) and `adapter/`; each is replaced whole.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(recipe.seed)
    model = build_backbone(len(tokenizer))
    attach(model, recipe.memory)
    tokeniser = Tokeniser(ChatTemplate(tokenizer, "chatml"))
    pairs = twins(tokenizer)
    begin_twins(model.model.embed_tokens.weight, pairs)
    for number, config in enumerate(recipe.stages):
        seed = 1000 * (recipe.seed + 1) + number
        with_memory, plain = (
            Curriculum(
                World(drawn, unheard=config.unheard), tokeniser, tokens=config.tokens,
                promote=mark, level=level, alike=config.alike, instructed=config.instructed,
                unknown=config.unknown, updates=config.updates, thorough=config.thorough,
            )
            for drawn, mark, level in (
                (seed, config.promote, config.level), (seed + 500, 0.8, config.plain_level)
            )
        )  # fmt: skip
        unused = _unused(tokeniser, len(tokenizer), pairs, seed + 900)
        Stage(model, config, with_memory, plain, work, seed, unused, pairs).run()
    export(model, tokenizer, output)


def _unused(tokeniser: Tokeniser, size: int, pairs: Tensor, seed: int) -> Tensor:
    """Tokens that a sample of 40,000 tokens of conversation has neither itself nor as a twin."""
    sample = Curriculum(World(seed), tokeniser, tokens=40_000, level=3, instructed=0.4)
    rows = sample.batch(memory=True)
    used = torch.zeros(size, dtype=torch.bool)
    used[rows.ids[rows.real]] = True
    used[pairs] = used[pairs].any(1, keepdim=True)
    return (~used).nonzero()[:, 0]


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(Recipe(seed=arguments.seed), arguments.work, arguments.output)


if __name__ == "__main__":
    main()
