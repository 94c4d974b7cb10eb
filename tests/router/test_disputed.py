"""What stands against a fact goes where the fact goes; what was forgotten comes back nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import FactStoreError
from deltamem_agents.router import FactStore, HybridRouter
from deltamem_agents.router.asked import slots_in
from deltamem_agents.router.extract import extract
from deltamem_agents.router.kept import LONGEST, kept
from deltamem_agents.router.plain import LONG, sentence_spans
from deltamem_agents.router.reading import NEAR, offers
from deltamem_agents.router.slots import slots
from deltamem_agents.router.words import cut

UNREAD = "Could you update my gate code? It's what Bob told us."


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FactStore]:
    with SQLAlchemySaver(tmp_path / "facts.db") as opened:
        yield FactStore(opened)


def user(text: str, message_id: str) -> dict[str, str]:
    return {"role": "user", "content": text, "id": message_id}


def test_a_revision_tells_a_value(store: FactStore) -> None:
    scope = store.branch("alice")
    (old,) = store.record("My gate code is 4411.", scope)
    with pytest.raises(FactStoreError, match="a revision tells a new value"):
        store.revise(old.fact_id, UNREAD, scope)
    assert store.facts(scope) == (old,)
    assert store.revise(old.fact_id, "My gate code is 55.", scope).value == "55"


def test_a_dispute_of_another_fact_keeps_none_from_answering(store: FactStore) -> None:
    scope = store.branch("alice")
    store.record("My gate code is 4411.", scope)
    store.record("My port is 8080.", scope)
    store.record(UNREAD, scope)
    router = HybridRouter(store)
    assert router.probe("What is my port?", scope).value == "8080"
    assert router.probe("What is my gate code?", scope).value is None


def test_the_second_fact_brings_its_rivals_too(store: FactStore) -> None:
    scope = store.branch("alice")
    store.record("My port is 8080.", scope)
    store.record("My gate code is 4411.", scope)
    store.record("Could you update my port? It's what Bob told us.", scope)
    store.record(UNREAD, scope)
    router = HybridRouter(store)
    data = router.as_data(router.probe("What is my port and my gate code?", scope))
    assert data.count("what Bob told us") == 2


def test_the_retriever_says_what_is_disputed(store: FactStore) -> None:
    scope = store.branch("alice")
    store.record("My gate code is 4411.", scope)
    store.record("My port is 8080.", scope)
    store.record(UNREAD, scope)
    found = store.as_retriever(scope).invoke("What is my gate code?")
    assert [one.page_content for one in found][:2] == ["My gate code is 4411.", UNREAD]
    assert [one.metadata["disputed"] for one in found][:2] == [True, True]
    (first,) = store.as_retriever(scope, k=1).invoke("What is my gate code?")
    assert first.metadata["disputed"]
    (port,) = store.as_retriever(scope, k=1).invoke("What is my port?")
    assert not port.metadata["disputed"]


def test_a_forgotten_message_makes_no_head(store: FactStore) -> None:
    scope = store.hear([user("my port is 80", "m1")], store.branch("alice"))
    store.forget(scope, message_ids=["m1"])
    assert store.hear([user("my port is 80", "m1")], scope) == scope
    onward = store.hear([user("my port is 80", "m1"), user("my gate is B7", "m2")], scope)
    assert onward.head != scope.head
    assert onward == store.hear([user("my gate is B7", "m2")], scope)


def test_what_is_offered_grows_with_the_sentence_and_not_faster() -> None:
    def offered(times: int) -> tuple[int, int]:
        text = " ".join(["my port thing goes along with seven other things"] * times)
        tokens = cut(text, 0, len(text), ())
        named = [group[0] for group in slots(tokens, text)]
        taken = {at for slot in named for at in range(slot.start, slot.end)}
        given = [len(offers(tokens, slot, taken)) for slot in named]
        return sum(given), max(given)

    (few, most), (many, still) = offered(12), offered(48)
    assert most <= still <= 10 * (2 * NEAR + 5)
    assert few * 3 < many <= few * 6  # four times the slots; those at the ends see less


def test_a_sentence_without_an_end_is_cut() -> None:
    text = " ".join(["my port thing goes along with seven other things"] * 100)
    spans = list(sentence_spans(text))
    assert " ".join(text[start:end] for start, end in spans) == text
    assert all(len(cut(text, *span, ())) <= LONG for span in spans)
    joined = " ".join(["It is what we said about things then."] * 100)
    assert all(len(cut(joined, *span, ())) <= LONG for span in sentence_spans(joined))
    question = "So what, after " + "all these many words about things " * 60 + "is my port is 80?"
    assert extract(question) == ()


def test_caches_hold_short_texts_and_are_emptied_by_forgetting(store: FactStore) -> None:
    calls: list[str] = []

    @kept(8)
    def count(text: str) -> int:
        calls.append(text)
        return len(text)

    short, long = "a question", "q" * (LONGEST + 1)
    assert [count(short), count(short), count(long), count(long)] == [10, 10, len(long), len(long)]
    assert calls == [short, long, long]
    scope = store.branch("alice")
    store.record(user("my port is 80", "m1"), scope)
    assert slots_in("What is my port?")
    store.forget(scope, message_ids=["m1"])
    count(short)
    assert calls == [short, long, long, short]
