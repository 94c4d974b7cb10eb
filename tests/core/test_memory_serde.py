"""LangGraph's own serializer and savers take a memory and give the same one back."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from deltamem_agents.core.state import Ledger, MemoryState


def sample(seed: int = 0) -> MemoryState:
    rng = np.random.default_rng(seed)
    state, boundary = rng.standard_normal((2, 5, 2, 8, 8), dtype=np.float32)
    ledger = Ledger(evicted="ab", evicted_count=4, visible=("01", "02"), pinned="ff")
    return MemoryState(state, boundary, ledger, 123, "5a" * 32)


@pytest.mark.parametrize(
    "allowed", [True, [MemoryState], [MemoryState, Ledger]], ids=["default", "strict", "both"]
)
def test_the_serializer_gives_back_the_value(allowed: object) -> None:
    serializer = JsonPlusSerializer(allowed_msgpack_modules=allowed)  # type: ignore[arg-type]
    again = serializer.loads_typed(serializer.dumps_typed({"delta_memory": sample()}))
    value = again["delta_memory"]
    assert type(value) is MemoryState
    assert type(value.ledger) is Ledger
    assert value == sample()
    assert type(value.ledger.visible) is tuple
    assert not value.state.flags.writeable


def test_a_damaged_value_does_not_come_back_as_a_memory(caplog: pytest.LogCaptureFixture) -> None:
    serializer = JsonPlusSerializer()
    kind, data = serializer.dumps_typed(sample())
    broken = data.replace(b"5a" * 32, b"zz" * 32)
    assert broken != data
    with caplog.at_level(logging.WARNING):
        assert not isinstance(serializer.loads_typed((kind, broken)), MemoryState)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_the_savers_keep_it_per_checkpoint(kind: str, tmp_path: Path) -> None:
    def run(saver: InMemorySaver | SqliteSaver) -> None:
        config = {"configurable": {"thread_id": "a", "checkpoint_ns": ""}}
        stored = []
        for number in range(3):
            checkpoint = empty_checkpoint()
            checkpoint["channel_values"] = {"delta_memory": sample(number)}
            checkpoint["channel_versions"] = {"delta_memory": number + 1}
            config = saver.put(config, checkpoint, {}, checkpoint["channel_versions"])  # type: ignore[arg-type]
            stored.append(config)
        for number, place in enumerate(stored):
            found = saver.get_tuple(place)
            assert found is not None
            assert found.checkpoint["channel_values"]["delta_memory"] == sample(number)

    if kind == "memory":
        run(InMemorySaver())
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "saver.db")) as saver:
            run(saver)
