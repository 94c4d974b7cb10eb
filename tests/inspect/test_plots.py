"""Pictures: what is drawn equals what is in the memory and in the gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import ConfigError, StateError
from deltamem_agents.inspect.plots import plot_change, plot_memory, plot_writes
from deltamem_agents.inspect.trace import trace_writes
from deltamem_agents.testing import tiny_engine

TALK = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "My code is 4711. It costs $5 and \u6f22."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "Which code?"},
]


def memory(layers: int = 3, heads: int = 2, rank: int = 4, seed: int = 0) -> MemoryState:
    state = np.random.default_rng(seed).normal(size=(layers, heads, rank, rank))
    array = state.astype(np.float32)
    return MemoryState(array, array, Ledger(), 7, "0" * 64)


def heat_maps(figure) -> list[np.ndarray]:
    return [axes.images[0].get_array().filled(np.nan) for axes in figure.axes if axes.images]


def test_each_heat_map_holds_its_layer_and_all_share_a_symmetric_scale(tmp_path: Path) -> None:
    value = memory()
    figure = plot_memory(value, tmp_path / "memory.png")
    maps = heat_maps(figure)
    assert len(maps) == 3
    for layer, drawn in enumerate(maps):
        assert np.array_equal(drawn[:, :4], value.state[layer, 0])
        assert np.isnan(drawn[:, 4]).all()
        assert np.array_equal(drawn[:, 5:], value.state[layer, 1])
    scales = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    ((low, high),) = scales
    assert low == -high
    titles = [axes.get_title("left") for axes in figure.axes if axes.images]
    assert titles == [f"layer {i}   norm {n:.3g}" for i, n in enumerate(value.layer_norms)]
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_many_layers_and_an_empty_memory_can_be_drawn() -> None:
    assert len(heat_maps(plot_memory(memory(layers=26, heads=1, rank=4)))) == 26
    empty = MemoryState(np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 1, 2, 2), np.float32),
                        Ledger(), 0, "0" * 64)  # fmt: skip
    figure = plot_memory(empty)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure.axes[0].images[0].get_clim() == (-1.0, 1.0)


def test_a_change_is_the_later_minus_the_earlier() -> None:
    before, after = memory(seed=1), memory(seed=2)
    drawn = heat_maps(plot_change(before, after))
    assert np.allclose(drawn[1][:, :4], after.state[1, 0] - before.state[1, 0])
    with pytest.raises(StateError):
        plot_change(before, memory(rank=2))


@pytest.mark.parametrize("window", [400, 110])
@pytest.mark.parametrize("write", ["token", "message"])
def test_a_trace_is_the_reading_that_the_engine_does(window: int, write: str) -> None:
    engine = tiny_engine(context_window=window, adapter={"write": write})
    talk = [*TALK, {"role": "assistant", "content": "4711."}]
    trace = trace_writes(engine, talk)
    expected = engine.read(None, talk)
    assert np.abs(trace.memory.state - expected.state).max() < 1e-5
    assert trace.memory.ledger == expected.ledger
    assert (expected.ledger.evicted_count > 0) == (window == 110)
    assert int(trace.written.sum()) == expected.tokens_written
    rendered = engine.template.render(talk)
    assert len(trace) == sum(map(len, rendered))
    whole = engine.tokenizer.decode([i for part in rendered for i in part.ids])
    assert "".join(trace.texts) == whole
    assert [trace.roles[trace.messages.index(i)] for i in (-1, 0, 1, 3)] == [
        "system", "user", "assistant", "assistant",
    ]  # fmt: skip
    assert (trace.strength[trace.written] > 0).all()
    if write == "message":
        here = [i for i, message in enumerate(trace.messages) if message == 1]
        assert len(set(trace.beta[0, here].tolist())) == 1


def test_gates_are_those_of_the_adapter() -> None:
    import torch

    from deltamem_agents.adapter import MemoryCache, MemoryCall

    engine = tiny_engine()
    trace = trace_writes(engine, TALK[1:])
    ids = [i for part in engine.template.render(TALK[1:]) for i in part.ids]
    cache = MemoryCache(engine.model)
    with torch.inference_mode():
        engine.model(torch.tensor([ids]), past_key_values=cache, delta_mem=MemoryCall(record=True))
    for layer, record in enumerate(cache.records):
        assert np.allclose(trace.beta[layer], record.beta[0].mean((-2, -1)), atol=1e-5)
        assert np.allclose(trace.keep[layer], record.keep[0].mean((-2, -1)), atol=1e-5)


def test_tokens_that_do_not_write_have_no_strength() -> None:
    from deltamem_agents.runtime.template import WritePolicy

    engine = tiny_engine(write_policy=WritePolicy(system=False, assistant=False))
    trace = trace_writes(engine, TALK)
    silent = np.array([role != "user" for role in trace.roles])
    assert silent.any()
    assert (trace.strength[silent] == 0).all()
    assert (trace.keep[:, silent] == 1).all()
    assert not trace.written[silent].any()
    assert trace.written[~silent].all()


def test_the_picture_of_writes_shows_the_text(tmp_path: Path) -> None:
    engine = tiny_engine()
    figure = plot_writes(engine, TALK, tmp_path / "writes.png")
    bars, text = figure.axes
    trace = trace_writes(engine, TALK)
    assert [bar.get_height() for bar in bars.patches[: len(trace)]] == pytest.approx(
        trace.strength.tolist()
    )
    shown = "".join(cell.get_text() for cell in text.texts)
    assert "My code is 4711. It costs $5 and \u25a1." in shown
    assert (tmp_path / "writes.png").stat().st_size > 10_000


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="ChatDeltaMem"):
        trace_writes("a text", "hello")
