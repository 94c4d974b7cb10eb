"""A change of key beside an open store: it follows its own saver, and refuses with another's."""

from __future__ import annotations

import threading
import uuid

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.guard import check_key_on
from deltamem_agents.errors import EncryptionError
from deltamem_agents.router import FactStore
from deltamem_agents.router.facts import Scope
from tests.router.conftest import OpenSaver

ONE, TWO = bytes(range(16)), bytes(range(1, 17))
CHANGES = [(None, ONE), (ONE, TWO)]


def _said(text: str, name: str) -> HumanMessage:
    return HumanMessage(text, id=name)


def _values(store: FactStore, scope: Scope, question: str = "what is my port?") -> list[str]:
    return [hit.fact.value for hit in store.search(question, scope, complete=False)]


def _told(saver: SQLAlchemySaver) -> tuple[FactStore, Scope]:
    store = FactStore(saver, embeddings=DeterministicFakeEmbedding(size=8))
    scope = Scope(saver.tenant, "a")
    store.record(_said("My port is 4711.", "m1"), scope)
    return store, scope


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_store_follows_its_saver(open_saver: OpenSaver, old: bytes | None, new: bytes) -> None:
    saver = open_saver(encryption_key=old)
    store, scope = _told(saver)
    assert _values(store, scope) == ["4711"]
    saver.rekey(new)
    assert store.status()["encrypted"]
    assert _values(store, scope) == ["4711"]
    assert store.record(_said("My port is 4711.", "m1"), scope) == ()  # known by its digest
    store.record(_said("My port is 4712.", "m2"), scope)
    assert _values(store, scope) == ["4712"]
    again = FactStore(open_saver(saver.tenant, encryption_key=new))
    assert _values(again, scope) == ["4712"]
    assert store.forget(scope, message_ids=["m2"]).forgotten
    assert _values(again, scope) == ["4711"]  # what it had taken the place of


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_store_with_the_old_key_stores_and_finds_nothing(
    open_saver: OpenSaver, old: bytes | None, new: bytes
) -> None:
    stale, scope = _told(open_saver(encryption_key=old))
    saver = open_saver(stale.tenant, encryption_key=old)
    fact = stale.facts(scope)[0]
    saver.rekey(new)
    for attempt in (
        lambda: stale.record(_said("My locker code is 88123.", "m2"), scope),
        lambda: stale.hear([_said("My locker code is 88123.", "m2")], scope),
        lambda: stale.add_documents([Document("My locker code is 88123.", id="d")], scope),
        lambda: stale.revise(fact.fact_id, _said("My port is 88123.", "m2"), scope),
        lambda: stale.close(fact.fact_id, scope),
        lambda: stale.forget(scope, fact_ids=[fact.fact_id]),
        lambda: stale.search("what is my port?", scope),
        lambda: stale.facts(scope),
        lambda: stale.branch("a", "head"),
        stale.status,
    ):
        with pytest.raises(EncryptionError):
            attempt()
    store = FactStore(saver)
    assert [found.value for found in store.facts(scope)] == ["4711"]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_what_was_acknowledged_while_the_key_changed_can_be_read(
    open_saver: OpenSaver, old: bytes | None, new: bytes
) -> None:
    saver = open_saver(encryption_key=old)
    own, scope = _told(saver)
    other = FactStore(open_saver(saver.tenant, encryption_key=old))
    told: list[str] = []
    refused: list[str] = []
    begun = threading.Event()

    def write(store: FactStore, name: str) -> None:
        for number in range(40):
            value = f"{name}{number}"
            try:
                store.record(
                    _said(f"The code of gate {value} is {value}.", uuid.uuid4().hex), scope
                )
            except EncryptionError:
                refused.append(name)
                if name == "other":
                    return
            else:
                told.append(value)
            if number == 5:
                begun.set()

    threads = [
        threading.Thread(target=write, args=(store, name))
        for store, name in ((own, "own"), (other, "other"))
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    saver.rekey(new)
    for thread in threads:
        thread.join()
    assert "own" not in refused  # its saver has the new key
    with pytest.raises(EncryptionError):
        other.record(_said("My locker code is 88123.", "m2"), scope)
    store = FactStore(open_saver(saver.tenant, encryption_key=new))
    values = {fact.value for fact in store.facts(scope)}
    assert set(told) <= values
    assert len([value for value in told if value.startswith("own")]) == 40


def test_a_store_without_a_key_to_look_at(open_saver: OpenSaver) -> None:
    """A saver of another make has an engine and a tenant, and its facts are plain."""

    class Other:
        def __init__(self, saver: SQLAlchemySaver) -> None:
            self.engine, self.tenant = saver.engine, saver.tenant

    store = FactStore(Other(open_saver()))
    scope = Scope(store.tenant, "a")
    store.record(_said("My port is 4711.", "m1"), scope)
    assert _values(store, scope) == ["4711"]
    assert not store.status()["encrypted"]


def test_the_key_is_compared_in_the_transaction(open_saver: OpenSaver) -> None:
    saver = open_saver(encryption_key=ONE)
    before = saver.context
    with saver.engine.begin() as connection:
        check_key_on(connection, before)
    saver.rekey(TWO)
    with saver.engine.begin() as connection:
        check_key_on(connection, saver.context)
        with pytest.raises(EncryptionError, match="key"):
            check_key_on(connection, before)


def test_what_was_forgotten_keeps_its_tenant_encrypted(open_saver: OpenSaver) -> None:
    """Without the key nothing would match its hash, and the message could be recorded again."""
    saver = open_saver(encryption_key=ONE)
    store, scope = _told(saver)
    assert store.forget(scope, message_ids=["m1"]).forgotten
    assert store.facts(scope) == ()
    with pytest.raises(EncryptionError, match="0 facts, 1 forgotten"):
        saver.rekey(None)
    saver.rekey(TWO)
    assert store.record(_said("My port is 4711.", "m1"), scope) == ()
    saver.delete_thread("a")
    saver.rekey(None)
