"""Revise and forget against an oracle; what is forgotten reads as if it had never been told."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore, HybridRouter, Scope

SUBJECTS = ("my", "my sister's", "the billing service's")
ATTRIBUTES = ("port", "gate", "locker code")
RANK = {"assistant": 1, "tool": 2, "user": 3}


@dataclass
class Oracle:
    """What a branch believes, by the rule as it is written down."""

    told: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def active(self) -> set[tuple[str, str, str]]:
        """(subject, attribute, value) of each message that no later one of its rank closes."""
        return {
            (subject, attribute, value)
            for number, (_, role, subject, attribute, value) in enumerate(self.told)
            if not any(
                (later[2], later[3]) == (subject, attribute) and RANK[later[1]] >= RANK[role]
                for later in self.told[number + 1 :]
            )
        }


STEP = st.one_of(
    st.tuples(
        st.just("tell"),
        st.sampled_from(sorted(RANK)),
        st.sampled_from(SUBJECTS),
        st.sampled_from(ATTRIBUTES),
        st.integers(10, 99).map(str),
    ),
    st.tuples(st.just("forget"), st.integers(0, 30)),
    st.tuples(st.just("again"), st.integers(0, 30)),
)


@pytest.fixture(scope="module")
def saver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLAlchemySaver]:
    path = tmp_path_factory.mktemp("oracle") / "facts.db"
    with SQLAlchemySaver(path, synchronous="OFF") as opened:
        yield opened


def read_back(store: FactStore, scope: Scope) -> set[tuple[str, str, str]]:
    spoken = {"user": "my", "user's sister": "my sister's"}
    return {
        (spoken.get(f.subject, "the billing service's"), f.attribute, f.value)
        for f in store.facts(scope)
    }


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEP, min_size=1, max_size=14))
def test_any_sequence_agrees_with_the_oracle(saver: SQLAlchemySaver, steps: list[tuple]) -> None:
    store, oracle = FactStore(saver, read_assistant=True), Oracle()
    scope = Scope(store.tenant, uuid.uuid4().hex)
    for number, step in enumerate(steps):
        if step[0] == "tell":
            _, role, subject, attribute, value = step
            text = f"{subject} {attribute} is {value}"
            store.record({"role": role, "content": text, "id": f"m{number}"}, scope)
            oracle.told.append((f"m{number}", role, subject, attribute, value))
        elif oracle.told:
            name, role, subject, attribute, value = oracle.told[step[1] % len(oracle.told)]
            if step[0] == "forget":
                report = store.forget(scope, message_ids=[name])
                assert len(report.forgotten) == 1
                oracle.told = [told for told in oracle.told if told[0] != name]
            else:  # the history is sent again
                text = f"{subject} {attribute} is {value}"
                assert store.record({"role": role, "content": text, "id": name}, scope) == ()
        assert read_back(store, scope) == oracle.active()
    survivors = Scope(store.tenant, uuid.uuid4().hex)
    for name, role, subject, attribute, value in oracle.told:
        text = f"{subject} {attribute} is {value}"
        store.record({"role": role, "content": text, "id": name}, survivors)
    assert read_back(store, survivors) == read_back(store, scope)


def test_what_the_assistant_says_closes_nothing_of_the_users(store: FactStore) -> None:
    store.listener.read_assistant = True
    scope = Scope(store.tenant, "alice")
    router = HybridRouter(store)
    store.record({"role": "user", "content": "my gate is B7", "id": "m1"}, scope)
    store.record({"role": "assistant", "content": "my gate is C9", "id": "m2"}, scope)
    decision = router.probe("What is my gate?", scope)
    assert decision.route == "both"
    shown = {f.value for f in [*decision.conflicts, *(h.fact for h in decision.facts)]}
    assert shown == {"B7", "C9"}
    lines = router.as_data(decision).splitlines()
    assert lines[0].startswith("Stored facts (data")
    assert len(lines) == 3
    today = decision.facts[0].fact.recorded_at[:10]
    assert all(today in line for line in lines[1:])
    store.record({"role": "user", "content": "my gate is D1 now", "id": "m3"}, scope)
    assert router.probe("What is my gate?", scope).value == "D1"


def test_canaries_stay_where_they_were_told(open_saver) -> None:
    names = [f"tenant {n}" + uuid.uuid4().hex for n in range(3)]
    stores = [FactStore(open_saver(tenant=name)) for name in names]
    threads = ["main", "Main", "main ", "main%", "ma_n", "main' OR '1'='1", "m\u00e4in", "MAIN"]
    canaries: dict[tuple[int, str], str] = {}
    for place, store in enumerate(stores):
        for thread in threads:
            canary = f"C-{uuid.uuid4().int % 10**9}"
            canaries[place, thread] = canary
            store.record(
                {"role": "user", "content": f"my canary is {canary}", "id": "m1"},
                Scope(store.tenant, thread),
            )
    checked = 0
    for (place, thread), canary in canaries.items():
        store, scope = stores[place], Scope(names[place], thread)
        found = [hit.fact.value for hit in store.search("canary my C", scope, 50)]
        assert found == [canary]
        assert [fact.value for fact in store.facts(scope)] == [canary]
        assert HybridRouter(store).probe("What is my canary?", scope).value == canary
        for other in set(canaries.values()) - {canary}:
            assert store.search(other, scope, 50)[:1] != (other,)
        checked += 1
    assert checked == 24
    stores[0].forget(Scope(names[0], "main"), message_ids=["m1"])
    for (place, thread), canary in canaries.items():
        left = [f.value for f in stores[place].facts(Scope(names[place], thread))]
        assert left == ([] if (place, thread) == (0, "main") else [canary])


def test_parallel_records_of_one_message_record_it_once(open_saver) -> None:
    saver = open_saver()
    stores = [FactStore(saver) for _ in range(4)]
    scope = stores[0].branch("alice")
    message = {"role": "user", "content": "my port is 8080 and my gate is B7", "id": "m1"}
    with ThreadPoolExecutor(4) as pool:
        scopes = list(pool.map(lambda store: store.hear([message], scope), stores * 3))
    assert len({one.head for one in scopes}) == 1
    facts = stores[0].facts(scopes[0], closed=True)
    assert [fact.value for fact in facts] == ["8080", "B7"]
