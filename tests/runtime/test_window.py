"""The ledger against the history: what is new, what was lost, what was changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltamem_agents.core.state import Ledger
from deltamem_agents.errors import ContextWindowError, DivergenceError
from deltamem_agents.runtime.answer import Options
from deltamem_agents.runtime.messages import digest, normalise, roll
from deltamem_agents.runtime.sampling import Sampling
from deltamem_agents.runtime.session import Session
from deltamem_agents.runtime.template import RenderedMessage
from deltamem_agents.runtime.window import Item, align, evict, plan_cuts, with_visible
from deltamem_agents.testing import tiny_engine


def user(text, **more):
    return {"role": "user", "content": text, **more}


def reply(text):
    return {"role": "assistant", "content": text}


TALK = normalise([user("a"), reply("A"), user("b"), reply("B"), user("c"), reply("C")])
NEW = normalise([user("d")])
SUMMARY = normalise([user("they spoke of a", summary=True)])


def ledger(evicted: int, end: int = 6) -> Ledger:
    names = [digest(entry) for entry in TALK]
    gone = evict(Ledger(), names[:evicted]) if evicted else Ledger()
    items = [Item(e, n) for e, n in zip(TALK[evicted:end], names[evicted:end], strict=True)]
    return with_visible(gone, items)


def said(alignment):
    return [item.entry["content"] for item in alignment.items]


@pytest.mark.parametrize(
    ("evicted", "history", "visible", "read", "lost"),
    [
        (0, TALK + NEW, "aAbBcCd", 6, 0),  # the whole history
        (2, TALK + NEW, "bBcCd", 4, 0),  # the whole history, two messages gone from the window
        (2, TALK[2:] + NEW, "bBcCd", 4, 0),  # without what is gone anyway
        (2, TALK[1:] + NEW, "bBcCd", 4, 0),  # without a part of it
        (0, TALK[2:] + NEW, "bBcCd", 4, 2),  # without two messages that were visible
        (0, TALK[5:] + NEW, "Cd", 1, 5),
        (0, NEW, "d", 0, 6),  # nothing of it is left
        (6, TALK + NEW, "d", 0, 0),  # nothing was visible
        (0, TALK, "aAbBcC", 6, 0),  # nothing new
    ],
)
def test_what_is_new_and_what_was_lost(evicted, history, visible, read, lost):
    found = align(ledger(evicted), history)
    assert "".join(said(found)) == visible
    assert (found.read, len(found.lost)) == (read, lost)
    assert [item.writes for item in found.items] == [not lost] * read + [True] * (
        len(visible) - read
    )


def test_a_summary_is_shown_and_not_written():
    replaced = align(ledger(0), SUMMARY + TALK[4:] + NEW)
    assert said(replaced) == ["they spoke of a", "c", "C", "d"]
    assert [item.writes for item in replaced.items] == [False, False, False, True]
    assert (replaced.read, len(replaced.lost)) == (3, 4)
    of_gone = align(ledger(2), SUMMARY + TALK[2:] + NEW)
    assert said(of_gone) == ["they spoke of a", "b", "B", "c", "C", "d"]
    assert [item.writes for item in of_gone.items] == [False, True, True, True, True, True]
    assert (of_gone.read, of_gone.lost) == (5, ())
    kept = with_visible(evict(ledger(0), replaced.lost), replaced.items)
    again = align(kept, SUMMARY + TALK[4:] + NEW + normalise([reply("D")]))
    assert (again.read, again.lost) == (4, ())
    assert [item.writes for item in again.items] == [False, False, False, True, True]
    other = normalise([user("they spoke of more", summary=True)])
    for history in (TALK + NEW, other + TALK[4:] + NEW):  # the ledger knows messages, no summaries
        found = align(kept, history)
        assert found.lost == ()
        assert said(found)[-3:] == ["c", "C", "d"]


CHANGED = normalise([reply("other")])
CHANGES = {
    "edited first": CHANGED + TALK[1:] + NEW,
    "edited inside": TALK[:3] + CHANGED + TALK[4:] + NEW,
    "edited last": TALK[:5] + CHANGED + NEW,
    "inserted": TALK[:2] + CHANGED + TALK[2:] + NEW,
    "removed inside": TALK[:2] + TALK[3:] + NEW,
    "removed at the end": TALK[:4] + NEW,
    "reordered": TALK[2:4] + TALK[:2] + TALK[4:] + NEW,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_visible_messages_are_divergence(change):
    with pytest.raises(DivergenceError, match="stay as they were read"):
        align(ledger(0), CHANGES[change])


def test_a_changed_window_behind_an_intact_past_is_divergence():
    edited = TALK[:2] + normalise([user(text) for text in "wxyz"]) + NEW
    for history in (edited, TALK[:2] + NEW, TALK[:2]):
        with pytest.raises(DivergenceError, match="stay as they were read"):
            align(ledger(2), history)
    assert align(ledger(2), NEW).lost == tuple(digest(entry) for entry in TALK[2:])


def test_changes_before_the_boundary_are_none():
    edited = CHANGED + TALK[1:] + NEW
    assert said(align(ledger(2), edited)) == ["b", "B", "c", "C", "d"]


def test_the_rolling_digest_depends_on_order_and_count():
    names = [digest(entry) for entry in TALK]
    assert roll(roll("", names[:2]), names[2:]) == roll("", names)
    assert len({roll("", names), roll("", names[::-1]), roll("", names[:-1])}) == 3


def sizes_of(items):
    return lambda first, end, answer: (10, [len(i.entry["content"]) for i in items[first:end]])


def test_whole_turns_leave_in_bulk():
    call = {"id": "1", "function": {"name": "f", "arguments": {}}}
    turns = [
        user("x" * 20), {"role": "assistant", "content": "y" * 20, "tool_calls": [call]},
        {"role": "tool", "content": "z" * 20}, reply("r" * 20),
        user("x" * 20), reply("r" * 20), user("x" * 20), reply("r" * 20), user("x" * 20),
    ]  # fmt: skip
    items = [Item(entry, digest(entry)) for entry in normalise(turns)]
    plan = {"measure": sizes_of(items), "generate": True}
    assert plan_cuts(items, 0, window=190, low_water=90, **plan) == []
    cuts = plan_cuts(items, 0, window=189, low_water=90, **plan)
    assert [(cut.at, cut.start) for cut in cuts] == [(9, 6)]
    assert plan_cuts(items, 8, window=189, low_water=110, **plan)[0].start == 4
    lived = plan_cuts(items, 0, window=100, low_water=50, **plan)
    assert [(cut.at, cut.start) for cut in lived] == [(5, 4), (9, 8)]
    with pytest.raises(ContextWindowError, match="context_window=60"):
        plan_cuts(items, 0, window=60, low_water=30, **plan)


def test_questions_without_answers_are_turns_too():
    items = [Item(entry, digest(entry)) for entry in normalise([user("x" * 30)] * 5)]
    cuts = plan_cuts(items, 0, sizes_of(items), window=80, low_water=45, generate=False)
    assert [(cut.at, cut.start) for cut in cuts] == [(3, 2), (5, 4)] or cuts[0].start == 2


@pytest.fixture(scope="module")
def engine():
    return tiny_engine(context_window=400)


def final(engine, state, history, **more):
    return [*engine.generate(state, history, options=Options(Sampling(max_tokens=6)), **more)][-1]


def test_lost_and_summarised_prefixes_agree_live_and_cold(engine):
    history = [user("one"), reply("two"), user("three"), reply("four")]
    state = engine.read(None, history)
    for left in (history[2:], [user("of one", summary=True), *history[2:]], []):
        sent = [*left, user("five")]
        live = final(engine, state, sent)
        engine.live.clear()
        cold = final(engine, state, sent)
        assert live.message == cold.message
        assert live.state.ledger == cold.state.ledger
        np.testing.assert_allclose(live.state.state, cold.state.state, atol=1e-5)
        np.testing.assert_array_equal(live.state.boundary_state, state.state)
        assert live.state.tokens_written > state.tokens_written
        more = [*sent, live.message, user("six")]
        one = final(engine, live.state, more)
        engine.live.clear()
        other = final(engine, live.state, more)
        assert one.message == other.message
        np.testing.assert_allclose(one.state.state, other.state.state, atol=1e-5)


def test_rebuild_equals_a_memory_that_never_read_the_old_text(engine):
    history = [user("my cat is Tom"), reply("noted"), user("next")]
    state = engine.read(None, history)
    edited = [user("my cat is Max"), *history[1:]]
    with pytest.raises(DivergenceError):
        engine.read(state, edited)
    rebuilt = engine.read(state, edited, on_divergence="rebuild")
    fresh = engine.read(None, edited)
    np.testing.assert_allclose(rebuilt.state, fresh.state, atol=1e-5)
    assert rebuilt.ledger == fresh.ledger
    assert state.diff(rebuilt).norm > 1e-3


def test_a_failed_turn_leaves_the_memory_usable(engine):
    state = engine.read(None, [user("hello")])
    with pytest.raises(ContextWindowError):
        engine.read(state, [user("hello"), user("x" * 900), reply("y")])
    assert final(engine, state, [user("hello"), user("again")]).state.tokens_written > 0


def test_a_memory_of_another_model_is_refused(engine):
    from deltamem_agents.errors import StateError

    other = tiny_engine(seed=5)
    with pytest.raises(StateError, match="made it"):
        other.read(engine.empty_state(), [user("x")])


def test_a_prompt_that_ends_just_behind_a_chunk_of_reading():
    """The reply's canonical form is read from before its opening, which must not be cut in two."""
    wide = tiny_engine(context_window=1000)
    lengths = set()
    for text in ("a" * 493, "a" * 494, "b" * 494, "b" * 495, "b" * 500):
        asked = [user(text)]
        lengths.add(wide.count_tokens(asked))
        found = [*wide.generate(None, asked, options=Options(Sampling(max_tokens=2)))][-1]
        fresh = wide.read(None, [*asked, found.message])
        assert found.state.ledger == fresh.ledger
        np.testing.assert_allclose(found.state.state, fresh.state, atol=1e-5)
    assert {512, 513, 514} <= lengths


@pytest.mark.parametrize("length", [511, 512, 513])
@pytest.mark.parametrize("opening", [1, 3])
def test_the_state_at_a_reply_is_the_state_before_its_opening(length, opening):
    """Also where the opening is one token at the beginning of a chunk: it may join a batch."""
    engine = tiny_engine(context_window=1000)

    def read(reply):
        session = Session(engine.model, engine.new_session(engine.empty_state().state).boundary)
        asked = RenderedMessage("user", tuple(5 + i % 40 for i in range(length)), (True,) * length)
        steps = session.sync(None, [asked], reply)
        with torch.inference_mode():
            feed = next(steps)
            while True:
                try:
                    feed = steps.send(engine.runner.forward([feed])[0])
                except StopIteration:
                    return session

    begun = read(RenderedMessage("assistant", (7,) * opening, (True,) * opening))
    torch.testing.assert_close(begun.marks[-1].state, read(None).memory, rtol=0, atol=1e-6)
