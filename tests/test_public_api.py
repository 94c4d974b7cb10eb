"""The public names: which there are, that each is there, and that nothing else is promised."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import deltamem_agents

ROOT = Path(__file__).parents[1]
NAMES = [
    "ChatDeltaMem",
    "DeltaMemConfig",
    "DeltaMemError",
    "DeltaMemMiddleware",
    "FactStore",
    "HybridRouter",
    "MemoryAgentState",
    "MemorySlot",
    "MemoryState",
    "SQLAlchemySaver",
    "ThreadMemory",
    "attach",
    "detach",
    "load_adapter",
    "memory_node",
    "plot_memory",
    "plot_writes",
    "save_adapter",
]


def test_the_public_names_are_these() -> None:
    assert deltamem_agents.__all__ == NAMES
    assert set(NAMES) <= set(dir(deltamem_agents))


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(deltamem_agents, name)
    assert value.__name__ == name
    assert value.__module__.startswith("deltamem_agents.")
    assert value.__doc__


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ChatDeltaMen'"):
        _ = deltamem_agents.ChatDeltaMen


def test_the_low_level_names_are_where_the_design_says() -> None:
    from deltamem_agents.adapter import MemoryCache, MemoryCall
    from deltamem_agents.core.scan import delta_scan

    assert [one.__name__ for one in (MemoryCache, MemoryCall, delta_scan)] == [
        "MemoryCache",
        "MemoryCall",
        "delta_scan",
    ]


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert deltamem_agents.__version__ == project["version"]
