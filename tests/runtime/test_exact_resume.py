"""A conversation that stops and goes on elsewhere is the one that never stopped."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from deltamem_agents.core.state import MemoryState
from deltamem_agents.errors import BoundaryError
from deltamem_agents.runtime.answer import Final, Options
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.runtime.template import WritePolicy
from deltamem_agents.testing import save_tiny, tiny_engine

SYSTEM = {"role": "system", "content": "You remember."}
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
SHORT = Options(sampling=Sampling(max_tokens=12))


def answer(engine, state, history, tools=None, **options):
    settings = Options(sampling=Sampling(max_tokens=12), **options)
    *_, final = engine.generate(state, history, tools=tools, options=settings)
    assert isinstance(final, Final)
    for call in final.message.get("invalid_tool_calls", ()):
        call["id"] = "drawn at random"
    return final


def talk(engine, turns, *, state=None, history=None, tools=None, cold=False):
    """Say `turns` things; with `cold`, forget all live keys and values before each."""
    history = list(history or [SYSTEM])
    for number in turns:
        history.append({"role": "user", "content": f"Thing {number} is called x{number * 7}."})
        if cold:
            engine.live.clear()
        final = answer(engine, state, history, tools)
        state = final.state
        history.append(final.message)
        if number % 3 == 1:  # a tool loop: call, two results, answer
            history[-1] = {
                "role": "assistant",
                "content": "",
                "reasoning_content": "let me look",
                "tool_calls": [{"id": f"c{number}", "name": "look", "args": {"at": number}}],
            }
            history.append({"role": "tool", "content": f"seen {number}", "tool_call_id": "c"})
            state = engine.read(state, history, tools=tools, on_divergence="rebuild")
            final = answer(engine, state, history, tools)
            state = final.state
            history.append(final.message)
    return state, history


def same(one: MemoryState, other: MemoryState) -> None:
    assert one.ledger == other.ledger
    assert one.fingerprint == other.fingerprint
    np.testing.assert_allclose(one.state, other.state, atol=1e-5)
    np.testing.assert_allclose(one.boundary_state, other.boundary_state, atol=1e-5)


@pytest.mark.parametrize("template", ["chatml", "qwen3", "smollm3"])
@pytest.mark.parametrize("write", ["token", "message"])
def test_cold_equals_live(template, write):
    adapter = {"write": write}
    options = {"template": template, "adapter": adapter, "window": 2048, "context_window": 800}
    live, history = talk(tiny_engine(**options), range(12), tools=[TOOL])
    cold, again = talk(tiny_engine(**options), range(12), tools=[TOOL], cold=True)
    assert [m["content"] for m in history] == [m["content"] for m in again]
    assert live.ledger.evicted_count > 0
    assert len(live.ledger.visible) + live.ledger.evicted_count == len(history) - 1
    same(live, cold)
    assert live.tokens_written == cold.tokens_written
    assert np.abs(live.state).max() > 0.1


def test_history_read_at_once_equals_history_lived_through():
    engine = tiny_engine(context_window=150)
    lived, history = talk(engine, [0, 2, 3, 5, 6, 8, 9])
    other = tiny_engine(context_window=150)
    same(lived, other.read(None, history))
    half = other.read(None, history[:6])
    same(lived, other.read(half, history))
    assert lived.ledger.evicted_count > 4
    assert lived.tokens_written == other.read(None, history).tokens_written


def test_evicted_messages_need_not_be_sent_again():
    engine = tiny_engine(context_window=150)
    state, history = talk(engine, [0, 2, 3, 5])
    gone = state.ledger.evicted_count
    assert gone > 0
    trimmed = [SYSTEM, *history[1 + gone :]]
    one, full = talk(engine, [6], state=state, history=history)
    other, short = talk(engine, [6], state=state, history=trimmed)
    assert full[-1] == short[-1]
    same(one, other)


def test_a_fresh_process_goes_on_token_by_token(tmp_path):
    backbone, adapter = save_tiny(tmp_path)
    script = f"""
import json, sys
sys.path.insert(0, {str(__import__("pathlib").Path(__file__).parent)!r})
from test_exact_resume import talk
from deltamem_agents.core.state import MemoryState
from deltamem_agents.runtime.loading import load_engine
engine = load_engine({str(backbone)!r}, {str(adapter)!r}, context_window=150)
state = MemoryState.load({str(tmp_path / "m.safetensors")!r})
history = json.load(open({str(tmp_path / "h.json")!r}))
state, history = talk(engine, range(5, 9), state=state, history=history)
state.save({str(tmp_path / "after.safetensors")!r})
json.dump(history, open({str(tmp_path / "after.json")!r}, "w"))
"""
    from deltamem_agents.runtime.loading import load_engine

    engine = load_engine(str(backbone), str(adapter), context_window=150)
    state, history = talk(engine, range(5))
    state.save(tmp_path / "m.safetensors")
    (tmp_path / "h.json").write_text(json.dumps(history))
    never_stopped, whole = talk(engine, range(5, 9), state=state, history=history)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert json.loads((tmp_path / "after.json").read_text()) == whole
    same(MemoryState.load(tmp_path / "after.safetensors"), never_stopped)


def test_a_live_session_reads_only_what_is_new():
    engine = tiny_engine()
    state, history = talk(engine, [0, 2, 3])
    history.append({"role": "user", "content": "More?"})
    final = answer(engine, state, history)
    assert final.usage.cached_tokens == engine.count_tokens(history[:-1], generate=False)
    engine.live.clear()
    cold = answer(engine, state, history)
    assert cold.usage.cached_tokens == 0
    assert cold.message == final.message
    same(cold.state, final.state)


def test_a_fork_gives_each_branch_its_own_memory():
    engine = tiny_engine()
    trunk, history = talk(engine, [0, 2])
    left, left_history = talk(engine, [3], state=trunk, history=history)
    right, _ = talk(engine, [5], state=trunk, history=history)
    again, again_history = talk(engine, [3], state=trunk, history=history)
    assert again_history == left_history
    same(left, again)
    assert left.diff(right).norm > 0.01


def test_pinned_prompt_is_written_once_and_tools_may_change():
    engine = tiny_engine()
    started = engine.read(None, [SYSTEM])
    assert started.tokens_written == engine.count_tokens([SYSTEM], generate=False)
    assert started.ledger.pinned != ""
    np.testing.assert_array_equal(started.state, started.boundary_state)
    one, _ = talk(engine, [0], state=started)
    two, _ = talk(engine, [0])
    same(one, two)
    history = [SYSTEM, {"role": "user", "content": "x"}]
    other = answer(engine, one, talk(engine, [0])[1] + history[1:], tools=[TOOL]).state
    assert other.ledger.pinned == one.ledger.pinned
    np.testing.assert_array_equal(other.boundary_state, started.state)


def test_reading_nothing_new_changes_nothing():
    engine = tiny_engine()
    state, history = talk(engine, [0, 2])
    again = engine.read(state, history)
    same(again, state)
    assert again.tokens_written == state.tokens_written


@pytest.mark.parametrize("write", ["token", "message"])
def test_what_a_policy_leaves_out_is_read_and_not_written(write):
    policy = WritePolicy(assistant=False, template=False, system=False)
    options = {"adapter": {"write": write}, "write_policy": policy, "context_window": 150}
    engine = tiny_engine(**options)
    live, history = talk(engine, [0, 2, 3, 5])
    cold, again = talk(tiny_engine(**options), [0, 2, 3, 5], cold=True)
    assert history == again
    same(live, cold)
    said = sum(len(m["content"].encode()) for m in history if m["role"] == "user")
    assert live.tokens_written == said
    assert live.fingerprint != tiny_engine(adapter={"write": write}).fingerprint


def test_sentence_writes_need_boundaries_that_no_template_tells():
    with pytest.raises(BoundaryError, match="by token or by message"):
        tiny_engine(adapter={"write": "sentence"})


@pytest.mark.parametrize("chunk", [3, 17])
@pytest.mark.parametrize("write", ["token", "message"])
def test_chunks_do_not_matter(monkeypatch, chunk, write):
    from deltamem_agents.runtime import session

    whole, history = talk(tiny_engine(adapter={"write": write}), [0, 1, 2])
    monkeypatch.setattr(session, "CHUNK", chunk)
    parts, again = talk(tiny_engine(adapter={"write": write}), [0, 1, 2])
    assert history == again
    same(whole, parts)
