"""Facts are read, kept in scope, revised, forgotten, and answered verbatim with their source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from sqlalchemy import select
from typing_extensions import TypedDict

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import FactStoreError
from deltamem_agents.router import FactStore, HybridRouter, Scope
from deltamem_agents.router.policy import ROUTES, Classifier


def alice(store: FactStore) -> Scope:
    return Scope(store.tenant, "alice")


def user(text: str, message_id: str) -> dict[str, str]:
    return {"role": "user", "content": text, "id": message_id}


TOLD = {
    "m1": "By the way, my sister's locker code is 482, I think.",
    "m2": "my locker code is 11 and my boss's badge number is AX-9914.",
    "m3": "The billing service runs on port 8080.",
    "m4": "Please deploy build 4f3a9c to host 10.0.0.7 by 2026-12-01.",
    "m5": "I live in Lisbon these days.",
}


@pytest.mark.parametrize(
    ("question", "value", "source"),
    [
        ("What is my sister's locker code?", "482", "m1"),
        ("what is my locker code?", "11", "m2"),
        ("could you look up my boss's badge number?", "AX-9914", "m2"),
        ("What port does the billing service run on?", "8080", "m3"),
        ("Which host do we deploy to?", "10.0.0.7", "m4"),
        ("Where do I live?", "Lisbon", "m5"),
    ],
)
def test_exact_question_is_answered_verbatim_with_its_source(
    store: FactStore, router: HybridRouter, question: str, value: str, source: str
) -> None:
    store.record_all([user(text, name) for name, text in TOLD.items()], alice(store))
    decision = router.probe(question, alice(store))
    assert (decision.route, decision.value) == ("exact", value)
    (citation,) = decision.citations
    start, end = citation.span
    assert citation.source_message_id == source
    assert TOLD[source][start:end] == value == citation.value
    assert citation.fact_id in {fact.fact_id for fact in store.facts(alice(store))}
    answer = router.answer(decision)
    assert value in answer.text
    assert f"message {source}, {start}:{end}]" in str(answer)


@pytest.mark.parametrize(
    ("question", "route"),
    [
        ("What is my brother's locker code?", "abstain"),
        ("do you know my name?", "abstain"),
        ("what is the search service's port?", "abstain"),
        ("The traffic was terrible today.", "neural"),
        ("What do you think about my sister?", "neural"),
        ("hello", "neural"),
    ],
)
def test_other_questions_do_not_get_a_fact(
    store: FactStore, router: HybridRouter, question: str, route: str
) -> None:
    store.record_all([user(text, name) for name, text in TOLD.items()], alice(store))
    decision = router.probe(question, alice(store))
    assert decision.route == route
    assert decision.value is None
    assert decision.citations == ()
    with pytest.raises(FactStoreError, match="only an exact decision"):
        router.answer(decision)


def test_a_history_that_is_given_again_records_nothing_twice(store: FactStore) -> None:
    history = [user(text, name) for name, text in TOLD.items()]
    first = store.record_all(history, alice(store))
    assert len(first) == 8
    assert store.record_all(history, alice(store)) == ()
    assert store.facts(alice(store)) == first
    again = store.record(user(TOLD["m3"], "m9"), alice(store))  # the same words, said once more
    assert [fact.value for fact in again] == ["8080"]


def test_a_newer_statement_closes_the_older(store: FactStore, router: HybridRouter) -> None:
    (old,) = store.record(user("I live in Lisbon", "m1"), alice(store))
    (new,) = store.record(user("actually, I moved to Quito", "m2"), alice(store))
    assert router.probe("Where do I live?", alice(store)).value == "Quito"
    assert [fact.value for fact in store.facts(alice(store))] == ["Quito"]
    assert [f.superseded_by for f in store.facts(alice(store), closed=True)] == [new.fact_id, None]
    report = store.forget(alice(store), message_ids=["m2"])
    assert report.forgotten == (new.fact_id,)
    assert store.facts(alice(store)) == (old,)  # as if the newer had never been told
    assert router.probe("Where do I live?", alice(store)).value == "Lisbon"
    assert (
        store.record(user("actually, I moved to Quito", "m2"), alice(store)) == ()
    )  # stays forgotten


def test_branches_hear_what_was_told_before_them_only(
    store: FactStore, router: HybridRouter
) -> None:
    root = store.hear([user("my port is 80", "m1")], store.branch("alice"))
    left = store.hear([user("my port is 81", "m2")], root)
    right = store.hear([user("my gate is B7", "m3")], root)
    question = "What is my port?"
    assert router.probe(question, left).value == "81"
    assert router.probe(question, right).value == "80"
    assert router.probe("What is my gate?", left).route == "abstain"
    assert router.probe("What is my gate?", store.branch("alice", right.head)).value == "B7"
    again = store.hear([user("my port is 80", "m1"), user("my port is 81", "m2")], root)
    assert again.lineage == left.lineage  # a retry comes to the same head
    assert len(store.facts(alice(store), closed=True)) == 3


def test_scopes_do_not_mix(store: FactStore, router: HybridRouter) -> None:
    store.record(user("my port is 80", "m1"), alice(store))
    for thread in ("alice ", "Alice", "alic", "alice%", "bob"):
        scope = Scope(store.tenant, thread)
        assert router.probe("What is my port?", scope).route == "abstain"
        assert store.facts(scope) == ()
    with pytest.raises(FactStoreError, match="tenant only"):
        store.search("port", Scope("other", "alice"))
    assert router.probe("What is my port?", Scope("other", "alice")).route == "neural"


def test_forgotten_bytes_leave_the_file(tmp_path: Path) -> None:
    with SQLAlchemySaver(tmp_path / "facts.db") as saver:
        store = FactStore(saver)
        store.record(user("my codename is Zanzibarnut", "m1"), alice(store))
        store.record(user("my gate is B7", "m2"), alice(store))
        held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"Zanzibarnut" in held
        store.forget(alice(store), message_ids=["m1"])
        held = b"".join(path.read_bytes() for path in tmp_path.iterdir()).lower()
        assert b"zanzibarnut" not in held
        assert b"b7" in held
        assert store.search("codename", alice(store)) == ()


def test_the_runnable_takes_its_scope_from_the_config(
    store: FactStore, router: HybridRouter
) -> None:
    store.record(user("my port is 8181", "m1"), alice(store))
    config = {"configurable": {"thread_id": "alice"}}
    asked = {"messages": [user("What is my port? My thread_id is bob.", "m2")]}
    assert router.invoke("What is my port?", config).value == "8181"
    assert router.invoke(asked, {"configurable": {"thread_id": "bob"}}).value is None
    tool = router.as_lookup_tool()
    assert "8181" in tool.invoke({"question": "What is my port?"}, config)
    assert set(tool.args) == {"question"}


def test_as_a_node_of_a_graph_of_ones_own(store: FactStore, router: HybridRouter) -> None:
    store.record(user("my port is 8181", "m1"), alice(store))
    state: type = TypedDict("state", {"messages": list, "decision": Any})  # type: ignore[assignment]
    graph = StateGraph(state).add_node("route", router.as_node()).add_edge(START, "route").compile()
    asked = {"messages": [user("What is my port?", "m2")], "decision": None}
    # The node's branch has heard nothing; the head comes from the state, never from the text.
    found = graph.invoke(asked, {"configurable": {"thread_id": "alice"}})
    assert found["decision"].value == "8181"
    other = graph.invoke(asked, {"configurable": {"thread_id": "bob"}})
    assert other["decision"].value is None


def test_a_tombstone_holds_no_content(store: FactStore) -> None:
    (fact,) = store.record(user("my codename is Zanzibarnut", "m1"), alice(store))
    store.forget(alice(store), fact_ids=[fact.fact_id])
    with store.engine.connect() as connection:
        rows = connection.execute(select(store.access.tables.tombstones)).all()
        left = connection.execute(select(store.access.tables.facts)).all()
    (buried,) = [row for row in rows if row.fact_id == fact.fact_id]
    assert "zanzibarnut" not in str(tuple(buried)).lower()
    assert fact.fact_id not in {row.fact_id for row in left}


def test_a_classifier_of_ones_own_decides(store: FactStore) -> None:
    store.record(user("my port is 8181", "m1"), alice(store))
    always = Classifier({route: {"bias": float(route == "neural")} for route in ROUTES}, 0.01)
    decision = HybridRouter(store, classifier=always).probe("What is my port?", alice(store))
    assert decision.route == "neural"
    assert HybridRouter(store).probe("What is my port?", alice(store)).route == "exact"
