"""Requests that tell, answers behind questions, and facts of someone else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore, HybridRouter, Scope
from deltamem_agents.router.asking import asks
from deltamem_agents.router.extract import extract
from deltamem_agents.router.reading import SURE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FactStore]:
    with SQLAlchemySaver(tmp_path / "facts.db") as opened:
        yield FactStore(opened)


def tell(store: FactStore, *said: str) -> Scope:
    scope = Scope(store.tenant, "alice")
    for number, text in enumerate(said):
        store.record({"role": "user", "content": text, "id": f"m{number}"}, scope)
    return scope


@pytest.mark.parametrize(
    "text",
    [
        "Could you change my gate to C9 in your notes?",
        "Would you mind changing my gate to C9?",
        "Put C9 down as my gate, would you?",
        "Could you update my gate? It's C9.",
        "C9? Oh, that is my gate.",
        "Apparently Kofi's locker is 17, and my gate is C9.",
        "You can find my gate at the top of the page, it's C9.",
    ],
)
def test_what_a_request_or_an_echo_tells_closes_the_old_value(store: FactStore, text: str) -> None:
    scope = tell(store, "my gate is B7", text)
    assert HybridRouter(store).probe("What is my gate?", scope).value == "C9"


@pytest.mark.parametrize(
    "text", ["Have you got my gate? C9.", "My gate was wrong, it says C9.", "The gate is C9 now."]
)
def test_what_may_be_newer_stands_beside_the_old_value(store: FactStore, text: str) -> None:
    scope = tell(store, "my gate is B7", text)
    decision = HybridRouter(store).probe("What is my gate?", scope)
    shown = [hit.fact.value for hit in decision.facts] + [f.value for f in decision.conflicts]
    assert decision.value == "C9" or (decision.value is None and "C9" in " ".join(shown))


@pytest.mark.parametrize(
    "text",
    [
        "Could you send my gate to tom@example.com?",
        "Could you tell me what my gate is?",
        "Bring up my gate, will you?",
        "What is my gate? I board at 10:35.",
        "Could you put my gate into the form?",
    ],
)
def test_other_requests_leave_the_value_alone(store: FactStore, text: str) -> None:
    scope = tell(store, "my gate is B7", text)
    assert HybridRouter(store).probe("What is my gate?", scope).value == "B7"


def test_a_plain_word_of_a_request_is_unsure() -> None:
    (draft,) = extract("Can you change my colour to olive?")
    assert (draft.value, draft.sure < SURE) == ("olive", True)
    assert not asks("Can you remember that my gate is C9?")
    assert asks("Can you remember what my gate is?")


@pytest.mark.parametrize(
    "question",
    ["When is my brother's birthday?", "What is my sister's badge number?", "My sister's locker?"],
)
def test_the_fact_of_another_is_no_answer(store: FactStore, question: str) -> None:
    scope = tell(store, "my sister's birthday is 9 May 1998", "my brother's locker is 17")
    decision = HybridRouter(store).probe(question, scope)
    assert decision.route == "abstain"
    assert decision.facts == ()


def test_a_value_by_itself_answers_only_what_its_sentence_is_about(store: FactStore) -> None:
    scope = tell(store, "Our bus to Graz goes at 22:45 from stop A58.")
    router = HybridRouter(store)
    assert router.probe("When is the best time to plant tulips?", scope).value is None
    assert router.probe("What is my landlord's best time?", scope).route == "abstain"


def test_a_sentence_that_nothing_states_tells_nothing(store: FactStore) -> None:
    scope = tell(store, "my gate is B7")
    decision = HybridRouter(store).probe("Finish this: Dear Sir, my gate is ...", scope)
    assert decision.route == "both"
    assert HybridRouter(store).probe("My gate is C9.", scope).route == "neural"


@pytest.mark.parametrize(
    "asked", ["When I told you my gate, what did I say?", "What do I say when asked for my gate?"]
)
def test_when_inside_a_question_asks_for_no_date(store: FactStore, asked: str) -> None:
    scope = tell(store, "my gate is B7")
    assert HybridRouter(store).probe(asked, scope).value == "B7"


def test_what_is_absent_is_said_to_the_model_only_on_wish(store: FactStore) -> None:
    scope = tell(store, "my gate is B7")
    quiet, loud = HybridRouter(store), HybridRouter(store, says_absent=True)
    decision = quiet.probe("What is my port?", scope)
    assert decision.route == "abstain"
    assert quiet.as_data(decision) == ""
    assert "do not make up a value" in loud.as_data(decision)


def test_the_owner_of_what_is_asked_for_is_not_asked_for(store: FactStore) -> None:
    scope = tell(store, "My manager is 29049.", "My boss wears the badge MY-6749.")
    router = HybridRouter(store)
    assert router.probe("What is my manager's favourite band?", scope).value is None
    assert router.probe("What is my badge number?", scope).value is None
    store.record("My locker code is 4471.", scope)
    assert router.probe("What is my locker combination number?", scope).value is None
    assert router.probe("What is my locker?", scope).value == "4471"


def test_what_leads_into_a_sentence_is_no_value(store: FactStore) -> None:
    said = "It is different now: the login service's release day is Friday."
    scope = tell(store, "The login service's release day is Monday.", said)
    asked = "What is the login service's release day?"
    assert HybridRouter(store).probe(asked, scope).value == "Friday"
