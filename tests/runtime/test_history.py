"""Histories that are sent again: named as if they were new, and read only where they are."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem_agents.errors import DivergenceError, MessageError
from deltamem_agents.runtime import history as histories
from deltamem_agents.runtime.answer import Options
from deltamem_agents.runtime.history import read_history
from deltamem_agents.runtime.messages import digest, normalise, roll
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.testing import tiny_engine

VALUES = st.sampled_from([1, True, 1.0, 0, False, "1", None, [1], [True], {"a": 1}, {"a": 1.0}])
SAID = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]), "content": st.sampled_from("abc")},
    optional={
        "tool_calls": st.just([])
        | VALUES.map(lambda value: [{"id": "1", "name": "f", "args": {"x": value}}]),
        "tool_call_id": st.sampled_from("12"),
        "summary": st.just(True),
    },
)
TALKS = st.lists(SAID, max_size=6)
SYSTEM = st.lists(st.sampled_from("xy").map(lambda t: {"role": "system", "content": t}), max_size=2)


@settings(max_examples=300, deadline=None)
@given(SYSTEM, TALKS, SYSTEM, TALKS, st.integers(0, 6))
def test_a_history_read_on_is_the_one_read_at_once(lead, talk, other_lead, other, kept):
    _, known = read_history([*lead, *talk])
    sent = [*other_lead, *copy.deepcopy(talk[:kept]), *other]
    entries = normalise(sent)
    expected = [entry for entry in entries if entry["role"] != "system"]
    system, found = read_history(sent, known)
    assert system == (entries[0] if other_lead else None)
    assert repr(found.entries) == repr(expected)
    assert found.names == [digest(entry) for entry in expected]
    assert found.rolled == [roll("", found.names[:n]) for n in range(len(expected) + 1)]
    again = read_history(sent, found)[1]
    assert again is found


def test_a_message_that_was_changed_in_place_is_read_again():
    call = {"id": "1", "name": "f", "args": {"x": [1]}}
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]  # fmt: skip  # noqa: E501
    _, known = read_history(talk)
    call["args"]["x"][0] = True
    _, found = read_history(talk, known)
    assert found.names[0] == known.names[0]
    assert found.names[1] != known.names[1]


def test_a_late_system_message_is_refused_though_the_rest_is_known():
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    late = {"role": "system", "content": "c"}
    for lead in ([], [late]):
        _, known = read_history([*lead, *talk])
        for first in (1, 2):
            with pytest.raises(MessageError, match="stands at the beginning"):
                read_history([*lead, *talk[:first], late, *talk[first:]], known)


def test_a_follow_up_reads_only_what_is_new(monkeypatch):
    """However long the history is that is sent again; and a changed past is still noticed."""
    engine = tiny_engine(context_window=200, low_water=100)
    options = Options(Sampling(max_tokens=4))
    state, talk, named = None, [], []
    monkeypatch.setattr(
        histories, "digest", lambda entry: named.append(entry["content"]) or digest(entry)
    )
    for turn in range(30):
        talk.append({"role": "user", "content": f"This is turn {turn}."})
        named.clear()
        *_, final = engine.generate(state, copy.deepcopy(talk), options=options)
        state = final.state
        assert len(named) == (1 if turn == 0 else 2)
        assert named[-1] == talk[-1]["content"]
        talk.append(final.message)
    assert state.ledger.evicted_count > 40
    cold = tiny_engine(context_window=200, low_water=100)
    question = {"role": "user", "content": "Well?"}
    told = [list(e.generate(state, [*talk, question], options=options))[-1] for e in (engine, cold)]
    assert told[0].message == told[1].message
    assert told[0].state.ledger == told[1].state.ledger
    talk[-1] = {"role": "assistant", "content": "something else"}
    for each in (engine, cold):
        with pytest.raises(DivergenceError):
            list(each.generate(state, [*talk, question], options=options))
