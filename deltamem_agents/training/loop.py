"""Training a memory for any model, from its settings to its files.

    model, tokenizer = prepare("Qwen/Qwen3-4B-Instruct-2507", DeltaMemConfig())
    chats = read_chats(["chats.jsonl"])
    result = train(model, ChatTemplate(tokenizer), chats, TrainingConfig("out"))

The folder `out` then holds the adapter (`ChatDeltaMem(model=..., adapter="out")`), `lora/` where
one was trained beside it, `training.json` with every setting, `log.jsonl`, TensorBoard's `runs/`
and the Trainer's checkpoints, from which a killed training goes on to the same result.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from deltamem_agents.adapter import DeltaMemConfig, adapter_config, attach, load_adapter
from deltamem_agents.adapter.ours import CONFIG
from deltamem_agents.errors import ConfigError
from deltamem_agents.runtime.limits import positions_of
from deltamem_agents.runtime.loading import built_in, load_backbone, load_tokenizer, resolve_model
from deltamem_agents.runtime.messages import digest_of, roll
from deltamem_agents.runtime.template import ChatTemplate
from deltamem_agents.training.batches import Collator
from deltamem_agents.training.chats import Chat
from deltamem_agents.training.episodes import Planner
from deltamem_agents.training.reading import packable
from deltamem_agents.training.settings import TrainingConfig
from deltamem_agents.training.trainer import History, MemoryTrainer
from deltamem_agents.training.windows import Episode

SETTINGS = "training.json"


@dataclass(frozen=True)
class Trained:
    """What came out.

    Args:
        folder: where the adapter is.
        steps: how many were made.
        metrics: of the evaluation data: "eval_loss", "eval_exact", "eval_exact_reset", ...; empty
            without such data.
        log: what was logged, oldest first.
    """

    folder: Path
    steps: int
    metrics: dict[str, float]
    log: tuple[dict[str, float], ...]


def prepare(
    model: str | Path | None,
    adapter: DeltaMemConfig | str | Path,
    *,
    lora_rank: int = 0,
    lora_alpha: float | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Load a backbone and its tokenizer, freeze it, and give it what is trained.

    Args:
        model: a folder or a name on the hub; None for the built-in backbone.
        adapter: what to attach, or the folder of one that is trained further.
        lora_rank: of a LoRA on every linear layer, beside the memory; 0 for none.
        lora_alpha: its scale; None for twice the rank.
        device: None takes CUDA where there is one.
        dtype: of the backbone; see `load_engine`.
        seed: of the new weights.

    Returns:
        model and tokenizer.

    Raises:
        ModelNotFoundError, FileFormatError, UnsupportedModelError: see `load_engine`.
    """
    folder = resolve_model(built_in("backbone") if model is None else model)
    tokenizer = load_tokenizer(folder)
    backbone = load_backbone(folder, device, dtype, None, None, None)
    set_seed(seed)
    if lora_rank:
        backbone = _with_lora(backbone, lora_rank, lora_alpha or 2 * lora_rank)
    beside = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    if isinstance(adapter, DeltaMemConfig):
        attach(backbone, adapter)
    else:
        load_adapter(backbone, adapter, trainable=True)
    for parameter in beside if lora_rank else ():
        parameter.requires_grad_(True)
    return backbone, tokenizer


def _with_lora(model: Any, rank: int, alpha: float) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is dep", FutureWarning)
        return get_peft_model(model, config)


def plan_episodes(
    model: Any,
    template: ChatTemplate,
    chats: Sequence[Chat],
    config: TrainingConfig,
    tick: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """Cut conversations into episodes, so that what is wrong with the data shows before training.

    Raises:
        ContextWindowError, BoundaryError, ConfigError: see `Planner`.
    """
    ends = end_tokens(model, template.tokenizer)
    planner = Planner(template, config.plan(), positions=positions_of(model), ends=ends)
    episodes = []
    for chat in chats:
        episodes.append(planner.plan(chat))
        tick()
    return episodes


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a reply."""
    given = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {*(given if isinstance(given, list | tuple) else (given,)), tokenizer.eos_token_id}
    return frozenset(int(token) for token in found if token is not None)


def make_trainer(
    model: Any,
    episodes: Sequence[Episode],
    config: TrainingConfig,
    evaluation: Sequence[Episode] = (),
) -> MemoryTrainer:
    """The trainer, ready to `train()`."""
    callbacks: list[Any] = [History()]
    if config.patience:
        callbacks.append(EarlyStoppingCallback(config.patience, config.least_gain))
    return MemoryTrainer(
        model=model,
        args=TrainingArguments(**config.arguments(bool(evaluation), len(episodes))),
        objective=config.objective,
        train_dataset=list(episodes),
        eval_dataset=list(evaluation) or None,
        data_collator=Collator(
            pack=config.pack if packable(model) else 0,
            by_message=bool(adapter_config(model).by_segment),
            alone=config.objective.contrast > 0,
        ),
        callbacks=callbacks,
    )


def train(
    model: Any,
    template: ChatTemplate,
    chats: Sequence[Chat],
    config: TrainingConfig,
    *,
    evaluation: Sequence[Chat] = (),
    resume: bool = False,
    tick: Callable[[], None] = lambda: None,
    ready: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a memory and write it.

    Args:
        model: of `prepare`, or any causal LM with an adapter attached.
        template: renders and says what writes; the one that will serve the model.
        chats: of `read_chats`.
        config: see `TrainingConfig`.
        evaluation: conversations that are not trained on.
        resume: go on from the newest whole checkpoint in the folder, where there is one.
        tick: called once for each conversation that has been cut into an episode.
        ready: called when all have, before the first step.

    Raises:
        ConfigError: the settings do not fit each other, or those of the training that is resumed;
            or the folder holds another training.
    """
    if config.patience and not evaluation:
        raise ConfigError(
            "early stopping needs conversations that are not trained on",
            got=f"patience={config.patience}",
            remedy="Give evaluation data.",
        )
    episodes = plan_episodes(model, template, chats, config, tick)
    held = plan_episodes(model, template, evaluation, config, tick)
    trainer = make_trainer(model, episodes, config, held)
    if trainer.is_world_process_zero():
        _begin(model, template, config, chats, resume)
    trainer.accelerator.wait_for_everyone()
    found = last_checkpoint(Path(config.output))
    ready()
    trainer.train(resume_from_checkpoint=None if found is None else str(found))
    metrics = trainer.evaluate() if held else {}
    _finish(trainer)
    state = trainer.state
    return Trained(Path(config.output), state.global_step, metrics, tuple(state.log_history))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the Trainer's state is its last file."""
    found = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            found.append((json.loads(state.read_text("utf-8"))["global_step"], state.parent))
        except (ValueError, KeyError, TypeError):
            continue  # killed while it was written
    return max(found)[1] if found else None


def _begin(
    model: Any, template: ChatTemplate, config: TrainingConfig, chats: Sequence[Chat], resume: bool
) -> None:
    """Check the folder and write the settings."""
    folder = Path(config.output)
    about = {
        "settings": config.as_dict(),
        "adapter": adapter_config(model).canonical(),
        "template": template.digest,
        "data": roll("", [digest_of(vars(replace(chat, name=""))) for chat in chats]),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    path = folder / SETTINGS
    if (path.exists() or (folder / CONFIG).exists()) and not resume:
        raise ConfigError(
            "a training has a folder of its own",
            got=str(folder),
            remedy="Choose another folder, or go on with this training: resume.",
        )
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        if before != about:
            raise ConfigError(
                "a training goes on with the settings and the data it began with",
                got=_differing(before, about),
                remedy=f"See {path}, or train into another folder.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    old, new = ({**one.pop("settings"), **one} for one in (dict(before), dict(now)))
    return ", ".join(f"{k}: {old.get(k)!r} -> {new[k]!r}" for k in new if old.get(k) != new[k])


def _finish(trainer: MemoryTrainer) -> None:
    """Write what was trained, gathered where it is spread over devices."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
