"""Facts follow their thread and their tenant: copies, keys, schemas, prefixes, deletions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage
from sqlalchemy import create_engine, inspect, select, text

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.fact_tables import fact_tables, scope_hash
from deltamem_agents.errors import ConflictError, EncryptionError
from deltamem_agents.router.facts import Scope
from deltamem_agents.router.store import FactStore
from tests.checkpoint.helpers import bytes_of, config, put

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))


def _said(words: str, name: str) -> HumanMessage:
    return HumanMessage(words, id=name)


def _told(saver: SQLAlchemySaver, thread: str = "a", **more: Any) -> tuple[FactStore, Scope]:
    """A thread with one fact that was revised, one that was forgotten, and a checkpoint."""
    store = FactStore(saver, **more)
    put(saver, config(thread), {"x": 1})
    scope = store.hear([_said("My port is 4711.", "m1")], store.branch(thread))
    scope = store.hear([_said("My port is 4712.", "m2")], scope)
    scope = store.hear([_said("My locker code is 88123.", "m3")], scope)
    store.forget(scope, message_ids=["m3"])
    return store, scope


def _values(store: FactStore, scope: Scope, words: str) -> list[str]:
    return [hit.fact.value for hit in store.search(words, scope)]


def _in(scope: Scope, thread: str) -> Scope:
    return Scope(scope.tenant, thread, scope.lineage, scope.checkpoint)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_copied_thread_answers_from_its_own_facts(url: str, key: bytes | None) -> None:
    with SQLAlchemySaver(url, encryption_key=key) as saver:
        store, scope = _told(saver, embeddings=DeterministicFakeEmbedding(size=8))
        saver.copy_thread("a", "b")
        copied = store.branch("b", scope.head)
        assert copied.lineage == scope.lineage
        for place in (scope, copied):
            assert _values(store, place, "what is my port?") == ["4712"]
            assert sorted(fact.value for fact in store.facts(place, closed=True)) == [
                "4711",
                "4712",
            ]
        ids = [
            {fact.fact_id for fact in store.facts(place, closed=True)} for place in (scope, copied)
        ]
        assert not ids[0] & ids[1]
        # A new value takes the place of the copied one, in the copy only.
        onward = store.hear([_said("My port is 4713.", "m4")], copied)
        assert _values(store, onward, "what is my port?") == ["4713"]
        assert _values(store, scope, "what is my port?") == ["4712"]
        # What was heard before the copy is not heard again, what was forgotten stays forgotten.
        assert store.record(_said("My port is 4712.", "m2"), copied) == ()
        assert store.record(_said("My locker code is 88123.", "m3"), copied) == ()
        saver.delete_thread("a")
        assert store.facts(scope, closed=True) == ()
        assert _values(store, onward, "what is my port?") == ["4713"]


def test_a_thread_with_facts_is_not_copied_upon(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        store, _ = _told(saver)
        store.record(_said("My port is 9.", "n1"), Scope(saver.tenant, "b"))
        with pytest.raises(ConflictError, match="empty one"):
            saver.copy_thread("a", "b")


def test_facts_are_sealed_with_the_new_key(url: str) -> None:
    """Plain to a key, that key to another; nothing plain is left, and all is found again."""
    with SQLAlchemySaver(url) as saver:
        _, scope = _told(saver, embeddings=DeterministicFakeEmbedding(size=8))
        before = _hashes(saver)
        for key in (KEY, OTHER):
            saver.rekey(key)
            store = FactStore(saver, embeddings=DeterministicFakeEmbedding(size=8))
            assert _values(store, scope, "what is my port?") == ["4712"]
            assert store.record(_said("My port is 4712.", "m2"), scope) == ()
            assert store.record(_said("My locker code is 88123.", "m3"), scope) == ()
            assert not before & _hashes(saver)
            assert b"4711" not in b"".join(_bodies(saver))
        if url.startswith("sqlite"):
            assert b"4711" not in bytes_of(url)
            assert b"zx4711" not in bytes_of(url)
        onward = store.hear([_said("My port is 4713.", "m4")], scope)
        assert _values(store, onward, "what is my port?") == ["4713"]
        with pytest.raises(EncryptionError, match="no facts"):
            saver.rekey(None)
        assert _values(store, onward, "what is my port?") == ["4713"]
        saver.delete_thread("a")
        saver.rekey(None)
    with SQLAlchemySaver(url) as saver:
        _told(saver, "c")


def _hashes(saver: SQLAlchemySaver) -> set[str]:
    """All hashes of content that the tables show."""
    tables = fact_tables()
    with saver.engine.connect() as connection:
        facts = connection.execute(
            select(tables.facts.c.slot, tables.facts.c.digest, tables.facts.c.message)
        ).all()
        buried = connection.execute(select(tables.tombstones.c.message)).all()
    return {entry for row in [*facts, *buried] for entry in row} - {""}


def _bodies(saver: SQLAlchemySaver) -> list[bytes]:
    with saver.engine.connect() as connection:
        return [bytes(row) for row in connection.scalars(select(fact_tables().facts.c.body))]


@contextmanager
def _schema(url: str) -> Iterator[str]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE SCHEMA facts_here"))
    try:
        yield "facts_here"
    finally:
        with engine.connect() as connection:
            connection.execute(text("DROP SCHEMA facts_here CASCADE"))
        engine.dispose()


def _works_in(saver: SQLAlchemySaver, schema: str | None, prefix: str) -> None:
    """Find, revise, copy, delete; only under the names of this installation."""
    store, scope = _told(saver)
    assert _values(store, scope, "what is my port?") == ["4712"]
    saver.copy_thread("a", "b")
    assert _values(store, _in(scope, "b"), "what is my port?") == ["4712"]
    facts = fact_tables(schema, prefix).facts
    by_scope = select(facts.c.fact_id).where(facts.c.scope == scope_hash("default", "a"))
    with saver.engine.connect() as connection:
        assert len(connection.execute(by_scope).all()) == 2
        assert facts.name in inspect(connection).get_table_names(schema=schema)
        if schema or prefix:
            assert "facts" not in inspect(connection).get_table_names()
    saver.delete_thread("a")
    with saver.engine.connect() as connection:
        assert connection.execute(by_scope).all() == []
    assert _values(store, _in(scope, "b"), "what is my port?") == ["4712"]


def test_facts_under_a_prefix(fresh_url: str) -> None:
    with SQLAlchemySaver(fresh_url, prefix="mine_") as saver:
        _works_in(saver, None, "mine_")


@pytest.mark.parametrize("prefix", ["", "mine_"])
def test_facts_in_a_schema(database: Callable[..., str], prefix: str) -> None:
    url = database("postgresql", fresh=True)
    with _schema(url) as schema, SQLAlchemySaver(url, schema=schema, prefix=prefix) as saver:
        _works_in(saver, schema, prefix)


def test_two_installations_in_one_file_keep_their_facts_apart(tmp_path: Path) -> None:
    with (
        SQLAlchemySaver(tmp_path / "a.db", prefix="one_") as first,
        SQLAlchemySaver(tmp_path / "a.db", prefix="two_") as second,
    ):
        store, scope = _told(first)
        assert _values(store, scope, "what is my port?") == ["4712"]
        assert FactStore(second).facts(scope, closed=True) == ()
