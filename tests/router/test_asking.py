"""How questions are read, and what becomes of statements that could not be read for sure."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from langchain_core.language_models import FakeListChatModel

from deltamem_agents.evaluation.tasks.router_unheard import spoken
from deltamem_agents.router import FactStore, HybridRouter, Scope, by_model
from deltamem_agents.router.aims import AIMS, aims
from deltamem_agents.router.asked import names, slots_in
from deltamem_agents.router.extract import extract
from deltamem_agents.router.facts import Fact
from deltamem_agents.router.reading import SURE, models, on_trial


def alice(store: FactStore) -> Scope:
    return Scope(store.tenant, "alice")


def user(text: str, message_id: str) -> dict[str, str]:
    return {"role": "user", "content": text, "id": message_id}


def fact(text: str) -> Fact:
    (draft,) = extract(text)
    about = draft.subject, draft.attribute, draft.value
    return Fact("f", draft.kind, *about, 0, 0, text, "m1", "", "user", "", slot="s")


@pytest.mark.parametrize(
    ("question", "told", "asked"),
    [
        ("What is my port?", "my port is 80", True),
        ("What did my port turn out to be?", "my port is 80", True),
        ("Quote my port back to me.", "my port is 80", True),
        ("what's my sisters badge number", "my sister's badge number is A1", True),
        ("What is the badge number of my sister?", "my sister's badge number is A1", True),
        ("Is there a record of Ivo's email?", "Ivo's email address is a@b.example", True),
        ("What is my badge number?", "my sister's badge number is A1", False),
        ("What is my sister's badge number?", "my badge number is A1", False),
        ("What is your port?", "my port is 80", False),
        ("What is the photo of my badge?", "my badge is A1", False),
        ("What is my badge's colour?", "my badge is A1", False),
        ("What is my badge holder?", "my badge is A1", False),
    ],
)
def test_a_name_is_asked_for_or_only_stands_there(question: str, told: str, asked: bool) -> None:
    assert (names(question, fact(told)) > 0.5) == asked


@pytest.mark.parametrize(
    ("text", "aim"),
    [
        ("What is my sister's badge number?", "ask"),
        ("I forgot my port.", "ask"),
        ("Write an email with my port in it.", "write"),
        ("What do you think about my sister?", "talk"),
        ("Tell me a joke.", "talk"),
        ("By the way, my port is 8080.", "tell"),
    ],
)
def test_what_a_text_is_for(text: str, aim: str) -> None:
    chances = aims(text)
    assert set(chances) == set(AIMS)
    assert sum(chances.values()) == pytest.approx(1.0)
    assert max(chances, key=lambda one: chances[one]) == aim


def test_questions_in_words_that_do_not_exist_are_read_by_their_shape() -> None:
    draw = random.Random(97)
    told = fact("my sister's badge number is A1")
    asked = [text for text in spoken(draw, "ask", 200) if "{s}" in text]
    right = [names(text.replace("{s}", "my sister's badge number"), told) > 0.5 for text in asked]
    assert len(right) > 150
    assert sum(right) / len(right) >= 0.9


def test_slots_of_a_question_are_those_it_may_name() -> None:
    assert ("user's sister", "badge number") in slots_in("What is my sister's badge number?")
    assert slots_in("How was your day?") == frozenset()


def test_an_unsure_statement_closes_nothing_and_both_come_back_dated(
    store: FactStore, router: HybridRouter
) -> None:
    store.record(user("my gate is B7", "m1"), alice(store))
    with on_trial(replace(models(), values={"none": 1.6})):  # a reader that is seldom sure
        (unsure,) = store.record(user("Somebody said my gate is C9.", "m2"), alice(store))[:1]
    assert unsure.sure < SURE
    decision = router.probe("What is my gate?", alice(store))
    assert decision.route == "both"
    data = router.as_data(decision)
    assert '"B7"' in data
    assert "C9" in data
    assert data.count(unsure.recorded_at[:10]) == 2
    store.record(user("my gate is D1 now", "m3"), alice(store))
    assert router.probe("What is my gate?", alice(store)).value == "D1"


@pytest.mark.parametrize(
    "later",
    [
        "Heads up, my gate isn't what it was, see C9.",
        "About my gate: somebody mentioned C9 or thereabouts.",
        "Replace my gate with C9.",
        "Could you update my gate? It's C9.",
        "The board shows C9 for my gate.",
    ],
)
def test_an_old_value_never_answers_alone_after_its_slot_was_spoken_of(
    store: FactStore, router: HybridRouter, later: str
) -> None:
    store.record(user("my gate is B7", "m1"), alice(store))
    store.record(user(later, "m2"), alice(store))
    decision = router.probe("What is my gate?", alice(store))
    shown = [hit.fact.value for hit in decision.facts] + [f.value for f in decision.conflicts]
    assert decision.value == "C9" or (decision.route == "both" and "C9" in " ".join(shown))


def test_what_is_said_in_passing_disputes_nothing(store: FactStore, router: HybridRouter) -> None:
    store.record(user("my gate is B7", "m1"), alice(store))
    for number, text in enumerate(["I like my gate.", "Is my gate far?", "What is my gate?"]):
        store.record(user(text, f"n{number}"), alice(store))
    assert router.probe("What is my gate?", alice(store)).value == "B7"


def test_the_kind_of_value_that_is_asked_for_outweighs_the_name(
    store: FactStore, router: HybridRouter
) -> None:
    store.record(user("My parking permit is AX-9914, valid until 2026-05-01.", "m1"), alice(store))
    decision = router.probe("Until when is my parking permit valid?", alice(store))
    assert decision.value != "AX-9914"
    assert router.probe("What is my parking permit?", alice(store)).value == "AX-9914"


REPLY = """Sure: [
 {"subject": "my sister", "attribute": "Nickname", "value": "Bim"},
 {"subject": "I", "attribute": "shoe size", "value": "45"},
 {"subject": "I", "attribute": "passphrase", "value": "opensesame"},
 "nonsense"]"""


def test_a_model_reads_facts_that_stand_in_the_text_letter_by_letter(open_saver) -> None:
    model = FakeListChatModel(responses=[REPLY, "no list at all", "[1, {}]"])
    store = FactStore(open_saver(), extractor=by_model(model))
    said = (
        "Everybody shouts Bim when that sister of mine comes. Whisper opensesame as my passphrase."
    )
    found = store.record(user(said, "m1"), alice(store))
    (nickname,) = [one for one in found if one.attribute == "nickname"]
    assert (nickname.subject, nickname.value) == ("user's sister", "Bim")
    assert said[nickname.start : nickname.end] == "Bim"
    assert nickname.quote == "Everybody shouts Bim when that sister of mine comes."
    assert nickname.sure < SURE, "it closes nothing"
    assert "45" not in {one.value for one in found}, "it stands nowhere in the text"
    assert not any("opensesame" in one.value + one.quote for one in found)
    assert store.record(user("Nothing to see.", "m2"), alice(store)) == ()
    assert store.record(user("Nothing here.", "m3"), alice(store)) == ()


def test_a_model_that_fails_stops_nothing(open_saver) -> None:
    def broken(text: str) -> list[dict[str, str]]:
        raise RuntimeError(text)

    store = FactStore(open_saver(), extractor=broken)
    (found,) = store.record(user("my gate is B7", "m1"), alice(store))
    assert found.value == "B7"
