"""The graph's examples run on the built-in model and do what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def model() -> Any:
    from deltamem_agents import ChatDeltaMem

    return ChatDeltaMem(max_tokens=8)


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a schema's annotations are looked up there
    spec.loader.exec_module(module)
    return module


def test_fork(model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = load("fork").main(model, str(tmp_path))
    assert result["distance"] > 0.01
    assert (
        result["memories"]["fork"].ledger.visible
        == (result["memories"]["trunk"].ledger.visible[:2])
    )
    assert "apart" in capsys.readouterr().out


def test_forget(model: Any, tmp_path: Path) -> None:
    result = load("forget").main(model, str(tmp_path))
    assert len(result["report"].message_ids) == 2
    assert len(result["report"].facts) == 1
    assert result["found"].route != "exact"
    assert result["distance"] < 1e-5
    assert result["left"] == []


def test_subgraph(model: Any, tmp_path: Path) -> None:
    result = load("subgraph").main(model, str(tmp_path))
    planner, writer = result["own"]["planner"], result["own"]["writer"]
    assert len(planner.ledger.visible) == 5, "not the writer's last word"
    assert len(writer.ledger.visible) == 6
    assert len(result["shared"].ledger.visible) == 6
    assert planner.ledger.pinned != writer.ledger.pinned


def test_existing_graph(model: Any, tmp_path: Path) -> None:
    result = load("existing_graph").main(model, str(tmp_path))
    assert set(result["output"]) == {"messages", "seen"}
    assert result["output"]["seen"] == 2
    assert len(result["memory"].ledger.visible) == 4
