"""Training: a memory for any model from chat data, and the recipe of the built-in model.

Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltamem_agents.training.batches import Collator
    from deltamem_agents.training.chats import Chat, read_chats
    from deltamem_agents.training.episodes import Planner
    from deltamem_agents.training.loop import Trained, prepare, train
    from deltamem_agents.training.reading import Reach
    from deltamem_agents.training.settings import TrainingConfig
    from deltamem_agents.training.terms import ObjectiveConfig, episode_loss
    from deltamem_agents.training.trainer import MemoryTrainer
    from deltamem_agents.training.windows import EpisodeConfig

__all__ = [
    "Chat",
    "Collator",
    "EpisodeConfig",
    "MemoryTrainer",
    "ObjectiveConfig",
    "Planner",
    "Reach",
    "Trained",
    "TrainingConfig",
    "episode_loss",
    "prepare",
    "read_chats",
    "train",
]

_HOMES = {
    "Chat": "chats",
    "Collator": "batches",
    "EpisodeConfig": "windows",
    "MemoryTrainer": "trainer",
    "ObjectiveConfig": "terms",
    "Planner": "episodes",
    "Reach": "reading",
    "Trained": "loop",
    "TrainingConfig": "settings",
    "episode_loss": "terms",
    "prepare": "loop",
    "read_chats": "chats",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"deltamem_agents.training.{home}"), name)
    globals()[name] = value
    return value
