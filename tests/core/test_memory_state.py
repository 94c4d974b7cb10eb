"""The memory as a value: what it accepts, that it cannot change, and how it compares."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import DeltaMemError, StateError

PRINT = "ab" * 32
VISIBLE = ("0a", "0b")


def memory(seed: int = 0, shape: tuple[int, ...] = (3, 2, 4, 4), **changes: object) -> MemoryState:
    rng = np.random.default_rng(seed)
    values: dict[str, object] = {
        "state": rng.standard_normal(shape, dtype=np.float32),
        "boundary_state": rng.standard_normal(shape, dtype=np.float32),
        "ledger": Ledger(evicted="ff", evicted_count=2, visible=VISIBLE, pinned="11"),
        "tokens_written": 7,
        "fingerprint": PRINT,
    }
    return MemoryState(**(values | changes))  # type: ignore[arg-type]


def filled(value: float) -> np.ndarray:
    return np.full((3, 2, 4, 4), value, dtype=np.float32)


def test_the_arrays_are_own_copies_that_nobody_can_write_to() -> None:
    source = filled(1.0)
    value = memory(state=source)
    source[:] = 9.0
    assert (value.state == 1.0).all()
    for array in (value.state, value.boundary_state):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
    with pytest.raises(AttributeError):
        value.tokens_written = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"state": filled(0).astype(np.float64)}, "float32"),
        ({"state": filled(0).astype(np.float16)}, "float32"),
        ({"state": filled(0).tolist()}, "float32"),
        ({"state": filled(0)[0]}, "layers, heads, rank, rank"),
        ({"state": filled(0)[..., :3]}, "layers, heads, rank, rank"),
        ({"state": filled(0)[:0], "boundary_state": filled(0)[:0]}, "layers, heads, rank, rank"),
        ({"state": filled(0)[:2]}, "one shape"),
        ({"state": filled(np.nan)}, "finite"),
        ({"boundary_state": filled(np.inf)}, "finite"),
        ({"ledger": None}, "Ledger"),
        ({"ledger": {"visible": []}}, "keys"),
        ({"tokens_written": -1}, "at least 0"),
        ({"tokens_written": 1.5}, "at least 0"),
        ({"tokens_written": True}, "at least 0"),
        ({"fingerprint": "ab"}, "sha256"),
        ({"fingerprint": PRINT.upper()}, "sha256"),
        ({"fingerprint": None}, "sha256"),
    ],
)
def test_what_breaks_a_rule_is_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(StateError, match=rule) as caught:
        memory(**change)
    assert isinstance(caught.value, (DeltaMemError, ValueError))


@pytest.mark.parametrize(
    "fields",
    [
        {"visible": "abcd"},
        {"visible": ("xyz",)},
        {"visible": ("",)},
        {"visible": (1,)},
        {"pinned": "AB"},
        {"evicted": "ab"},
        {"evicted_count": 1},
        {"evicted": "ab", "evicted_count": -1},
    ],
)
def test_a_ledger_holds_hex_digests_only(fields: dict[str, object]) -> None:
    with pytest.raises(StateError):
        Ledger(**fields)  # type: ignore[arg-type]


def test_equality_is_by_value_and_agrees_with_hash() -> None:
    assert memory() == memory()
    assert hash(memory()) == hash(memory())
    changed = [
        memory(state=filled(1)),
        memory(boundary_state=filled(1)),
        memory(ledger=Ledger()),
        memory(tokens_written=8),
        memory(fingerprint="cd" * 32),
        memory(1, shape=(1, 1, 4, 4)),
    ]
    assert all(memory() != other for other in changed)
    assert memory() != "memory"


def test_copies_and_pickles_keep_the_value_and_its_seal() -> None:
    value = memory()
    assert copy.copy(value) is value
    assert copy.deepcopy({"a": value})["a"] is value
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert not again.state.flags.writeable


def test_repr_is_one_line_without_the_matrix() -> None:
    value = memory(shape=(40, 4, 16, 16))
    assert repr(value) == (
        "MemoryState(layers=40, heads=4, rank=16, tokens_written=7, visible=2, evicted=2, "
        f"norm={value.norm:.4g}, fingerprint=abababababab)"
    )


def test_numbers_that_describe_it() -> None:
    value = memory(state=filled(0.5), boundary_state=filled(0.0))
    assert value.norm == pytest.approx(0.5 * np.sqrt(96))
    assert value.layer_norms == pytest.approx([0.5 * np.sqrt(32)] * 3)
    assert value.nbytes == 2 * 96 * 4
    told = json.loads(json.dumps(value.describe()))
    assert told["layers"] == 3
    assert told["bytes"] == 768
    assert told["largest"] == 0.5
    assert (told["messages_visible"], told["messages_evicted"]) == (2, 2)


def test_a_difference_says_how_far_and_what() -> None:
    before = memory(state=filled(1.0))
    raised = filled(1.0)
    raised[2, 1, 3, 0] = -2.0
    after = memory(state=raised, tokens_written=12)
    change = after.diff(before)
    assert change.norm == pytest.approx(3.0)
    assert change.largest == pytest.approx(3.0)
    assert change.layer_norms == pytest.approx([0, 0, 3])
    assert change.tokens == 5
    assert change.same_ledger
    with pytest.raises(StateError, match="one adapter"):
        after.diff(memory(fingerprint="cd" * 32))


def test_state_and_codec_load_no_torch() -> None:
    code = (
        "import sys, deltamem_agents.core.state, deltamem_agents.core.codec;"
        "print(sorted({'torch', 'numba', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
