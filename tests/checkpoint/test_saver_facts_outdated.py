"""Facts that older versions hashed otherwise are revised, heard and forgotten like any others.

The databases are made as those versions left them: the schema of step 3, and rows whose hashes are
computed here as they were then (slots with the scope in them; where content is encrypted, the key
on a list of one text instead of on its hash).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from sqlalchemy import create_engine, inspect, select, text

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.fact_rows import unseal
from deltamem_agents.checkpoint.fact_tables import fact_tables, scope_hash
from deltamem_agents.checkpoint.serde import Coder
from deltamem_agents.errors import EncryptionError
from deltamem_agents.router.facts import Scope
from deltamem_agents.router.store import FactStore
from tests.checkpoint.helpers import config, put

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
TOLD = [
    ("m1", "My port is 4711."),
    ("m2", "My port is 4712."),
    ("m3", "My locker code is 88123."),
]
# What the older version put into the slots, after the scope: subject and attribute as tokens.
SLOTS = {"4711": ("user", "port"), "4712": ("user", "port")}


def _plain(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def _hash(coder: Coder) -> Callable[[str], str]:
    """The hash of one text as it stood in a row."""
    if coder.cipher is None:
        return _plain
    return lambda part: coder.digest("fact", json.dumps((part,)).encode("ascii")).hex()


def _messages(*names: str) -> list[HumanMessage]:
    return [HumanMessage(words, id=name) for name, words in TOLD if name in names]


def _older(url: str, key: bytes | None) -> Scope:
    """A thread of an older version: a fact that was revised, and one that was forgotten."""
    with SQLAlchemySaver(url, encryption_key=key) as saver:
        store = FactStore(saver)
        put(saver, config("a"), {"x": 1})
        scope = store.branch("a")
        for name in ("m1", "m2", "m3"):
            scope = store.hear(_messages(name), scope)
        store.forget(scope, message_ids=["m3"])
        _hash_as_before(saver)
    return scope


def _hash_as_before(saver: SQLAlchemySaver) -> None:
    tables, coder = fact_tables(), saver.context.coder
    facts, tombstones, old = tables.facts, tables.tombstones, _hash(coder)
    digests = {name: _plain_digest("user", words, name) for name, words in TOLD}
    key = scope_hash("default", "a")
    with saver.engine.begin() as connection:
        for row in connection.execute(select(facts)).all():
            body = json.loads(unseal(coder, bytes(row.body)))
            changed = {
                "slot": old(_plain(key, *SLOTS[body["value"]])),
                "digest": old(digests[body["message"]]),
                "message": old(body["message"]),
            }
            own = facts.c.number == row.number
            connection.execute(facts.update().where(own).values(changed))
        connection.execute(tombstones.update().values(message=old("m3")))
        connection.execute(text("ALTER TABLE fact_tombstones DROP COLUMN tenant"))
        connection.execute(text("DROP TABLE fact_outdated"))
        connection.execute(text("DELETE FROM schema_migrations WHERE version > 3"))


def _plain_digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode("ascii")).hexdigest()


def _values(store: FactStore, scope: Scope, *, closed: bool = False) -> list[str]:
    return [fact.value for fact in store.facts(scope, closed=closed)]


both = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])


@both
def test_an_older_fact_is_revised(fresh_url: str, key: bytes | None) -> None:
    scope = _older(fresh_url, key)
    with SQLAlchemySaver(fresh_url, encryption_key=key) as saver:
        store = FactStore(saver)
        (fact,) = store.facts(scope)
        assert fact.value == "4712"
        store.revise(fact.fact_id, "My port is 4713.", scope)
        assert _values(store, scope) == ["4713"]
        assert [hit.fact.value for hit in store.search("what is my port?", scope)] == ["4713"]


@both
def test_a_new_value_takes_the_place_of_an_older_one(fresh_url: str, key: bytes | None) -> None:
    scope = _older(fresh_url, key)
    with SQLAlchemySaver(fresh_url, encryption_key=key) as saver:
        store = FactStore(saver)
        onward = store.hear([HumanMessage("My port is 4713.", id="m4")], scope)
        assert _values(store, onward) == ["4713"]
        saver.copy_thread("a", "b")
        copied = store.branch("b", onward.head)
        onward = store.hear([HumanMessage("My port is 4714.", id="m5")], copied)
        assert _values(store, onward) == ["4714"]


@both
def test_what_was_heard_and_forgotten_before_is_not_heard_again(
    fresh_url: str, key: bytes | None
) -> None:
    scope = _older(fresh_url, key)
    with SQLAlchemySaver(fresh_url, encryption_key=key) as saver:
        store = FactStore(saver)
        assert store.hear(_messages("m1", "m2"), scope) == scope
        assert store.record_all(_messages("m1", "m2", "m3"), scope) == ()
        assert _values(store, scope, closed=True) == ["4711", "4712"]
        saver.rekey(OTHER)
        store = FactStore(saver)
        assert store.record_all(_messages("m1", "m2", "m3"), scope) == ()


@both
def test_an_older_fact_is_forgotten_by_its_message(fresh_url: str, key: bytes | None) -> None:
    scope = _older(fresh_url, key)
    with SQLAlchemySaver(fresh_url, encryption_key=key) as saver:
        store = FactStore(saver)
        assert len(store.forget(scope, message_ids=["m2"]).forgotten) == 1
        assert _values(store, scope) == ["4711"]
        assert store.record_all(_messages("m2"), scope) == ()


def test_a_change_of_key_before_the_first_use_loses_nothing(fresh_url: str) -> None:
    scope = _older(fresh_url, None)
    with SQLAlchemySaver(fresh_url) as saver:
        saver.rekey(KEY)
        store = FactStore(saver)
        (fact,) = store.facts(scope)
        store.revise(fact.fact_id, "My port is 4713.", scope)
        assert _values(store, scope) == ["4713"]
        assert store.record_all(_messages("m1", "m2", "m3"), scope) == ()


def test_without_the_key_older_facts_are_refused_and_wait(fresh_url: str) -> None:
    scope = _older(fresh_url, KEY)
    with pytest.raises(EncryptionError, match="encrypted"):
        SQLAlchemySaver(fresh_url).setup()
    with SQLAlchemySaver(fresh_url, encryption_key=KEY) as saver:
        store = FactStore(saver)
        (fact,) = store.facts(scope)
        store.revise(fact.fact_id, "My port is 4713.", scope)
        assert _values(store, scope) == ["4713"]


def test_a_store_without_a_saver_brings_its_tables_up_to_date(fresh_url: str) -> None:
    class Plain:
        tenant = "default"

        def __init__(self) -> None:
            self.engine = create_engine(fresh_url)

    scope = _older(fresh_url, None)
    saver = Plain()
    store = FactStore(saver)
    (fact,) = store.facts(scope)
    store.revise(fact.fact_id, "My port is 4713.", scope)
    assert _values(store, scope) == ["4713"]
    saver.engine.dispose()


def _tombstones(saver: SQLAlchemySaver) -> list[Any]:
    table = fact_tables().tombstones
    with saver.engine.connect() as connection:
        return list(connection.execute(select(table.c.tenant, table.c.message)).all())


def test_tombstones_of_threads_with_nothing_else_follow_a_change_of_key(fresh_url: str) -> None:
    """Without a checkpoint, a write or a fact, the tombstone itself must say whose it is."""
    scope = Scope("default", "alone")
    with SQLAlchemySaver(fresh_url) as saver, SQLAlchemySaver(fresh_url, tenant="t") as other:
        for one, place in ((saver, scope), (other, Scope("t", "alone"))):
            store = FactStore(one)
            store.record_all(_messages("m3"), place)
            store.forget(place, message_ids=["m3"])
        before = {row.message for row in _tombstones(saver)}
        assert before == {_plain("m3")}
        saver.rekey(KEY)
        after = {row.tenant: row.message for row in _tombstones(saver)}
        assert after[_plain("t")] == _plain("m3")
        assert after[_plain("default")] != _plain("m3")
        assert FactStore(saver).record_all(_messages("m3"), scope) == ()
        assert FactStore(other).record_all(_messages("m3"), Scope("t", "alone")) == ()


def test_older_tombstones_learn_their_tenant(fresh_url: str) -> None:
    """From the facts of their thread, else from its checkpoints; else they stay nobody's."""
    _older(fresh_url, None)
    tables = fact_tables()
    engine = create_engine(fresh_url)
    with engine.begin() as connection:
        connection.execute(tables.facts.delete())
        row = {"fact_id": "0" * 32, "scope": scope_hash("default", "gone"), "forgotten_at": 0.0}
        connection.execute(tables.tombstones.insert().values(**row, message=_plain("m1")))
        held = {column["name"] for column in inspect(connection).get_columns("fact_tombstones")}
        assert "tenant" not in held
    engine.dispose()
    with SQLAlchemySaver(fresh_url) as saver:
        found = {row.message: row.tenant for row in _tombstones(saver)}
        assert found == {_plain("m3"): _plain("default"), _plain("m1"): None}
        saver.rekey(KEY)
        store = FactStore(saver)
        assert store.record_all(_messages("m1"), Scope("default", "gone")) == ()
        assert store.record_all(_messages("m3"), Scope("default", "a")) == ()
