"""A tenant's first key: taken where nothing is stored, refused where anything plain is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import select

from deltamem_agents.checkpoint import SQLAlchemySaver, migrations, writing
from deltamem_agents.errors import EncryptionError
from deltamem_agents.router import FactStore, Scope
from tests.checkpoint.helpers import checkpoint, config, put, values_of

KEY = bytes(range(32))
SCOPE = Scope("default", "t")


def _writes(saver: SQLAlchemySaver) -> None:
    saver.put_writes(config(checkpoint_id="not stored yet"), [("x", 1)], "task")


def _fact(saver: SQLAlchemySaver) -> None:
    FactStore(saver).record("My port is 8081.", SCOPE)


def _tombstone(saver: SQLAlchemySaver) -> None:
    _fact(saver)
    store = FactStore(saver)
    assert store.forget(SCOPE, fact_ids=[fact.fact_id for fact in store.facts(SCOPE)]).forgotten


def _blob_that_nothing_refers_to(saver: SQLAlchemySaver) -> None:
    made = checkpoint({"x": "first " * 200})
    saver.put(config(), made, {}, {"x": "1"})
    saver.put(config(), {**made, "channel_values": {"x": 2}}, {}, {"x": "1"})
    saver.delete_thread("t")
    assert (saver.stats().checkpoints, saver.stats().blobs) == (0, 1)


LEFT = [_writes, _fact, _tombstone, _blob_that_nothing_refers_to]


@pytest.mark.parametrize("leave", LEFT)
def test_a_tenant_without_checkpoints_keeps_its_plain_rows(
    url: str, leave: Callable[[SQLAlchemySaver], None]
) -> None:
    with SQLAlchemySaver(url) as saver:
        leave(saver)
    with pytest.raises(EncryptionError, match="call `rekey"):
        SQLAlchemySaver(url, encryption_key=KEY).setup()
    with SQLAlchemySaver(url) as saver:  # what the error advises
        values = [fact.value for fact in FactStore(saver).facts(SCOPE)]
        saver.rekey(KEY)
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        assert [fact.value for fact in FactStore(saver).facts(SCOPE)] == values
        saver.rekey(bytes(16))  # opens all there is


def test_a_tenant_that_holds_nothing_takes_a_key(url: str) -> None:
    with SQLAlchemySaver(url, tenant="other") as other:
        for leave in LEFT[:1] + LEFT[3:]:
            leave(other)
        FactStore(other).record("My port is 8081.", Scope("other", "t"))
    with SQLAlchemySaver(url) as saver:
        put(saver, config(), {"x": 1})
        saver.delete_thread("t")
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        assert values_of(saver, put(saver, config(), {"x": "kept " * 200})) == {"x": "kept " * 200}


@pytest.mark.parametrize("fenced", [False, True])
def test_what_is_written_in_plain_while_the_first_key_comes(
    url: str, monkeypatch: pytest.MonkeyPatch, fenced: bool
) -> None:
    """Acknowledged, it can be read, and the key was refused; else it was refused itself."""
    with SQLAlchemySaver(url) as plain, ThreadPoolExecutor(1) as pool:
        place = plain.fence(config()) if fenced else config()
        store, opened = writing.put_checkpoint, []

        def slow(session: Any, one: Any) -> Any:  # the key comes between the look at it and the row
            keyed = SQLAlchemySaver(url, encryption_key=KEY)
            opened.append(pool.submit(_outcome, keyed.setup))
            wait(opened, 0.5)
            return store(session, one)

        monkeypatch.setattr(writing, "put_checkpoint", slow)
        monkeypatch.setattr(writing, "put_at_once", lambda session, one: None)
        written = _outcome(lambda: put(plain, place, {"x": "in plain"}))
        monkeypatch.undo()
        assert [entry.result(60) for entry in opened] == [EncryptionError]
        assert values_of(plain, written) == {"x": "in plain"}


def _outcome(call: Callable[[], Any]) -> Any:
    """What it returns, or the sort of error that it raises."""
    try:
        return call()
    except EncryptionError as error:
        return type(error)


def test_savers_that_bring_the_first_key_at_once(url: str) -> None:
    for tenant in ("never opened", "opened in plain"):
        if tenant == "opened in plain":
            with SQLAlchemySaver(url, tenant=tenant):
                pass
        keys = [KEY, KEY, KEY, bytes(32)]
        savers = [SQLAlchemySaver(url, tenant=tenant, encryption_key=key) for key in keys]
        with ThreadPoolExecutor(4) as pool:
            outcomes = [
                entry.result(60) for entry in [pool.submit(_outcome, s.setup) for s in savers]
            ]
        assert outcomes in ([None, None, None, EncryptionError], [EncryptionError] * 3 + [None])
        for saver in savers:
            saver.close()


def test_a_tenant_that_was_decrypted_is_not_encrypted_by_who_has_the_old_key(url: str) -> None:
    with (
        SQLAlchemySaver(url, encryption_key=KEY) as saver,
        SQLAlchemySaver(url, encryption_key=KEY) as stale,
    ):
        saver.rekey(None)
        with pytest.raises(EncryptionError):
            put(stale, config(), {"x": "sealed"})
        assert values_of(saver, put(saver, config(), {"x": "plain"})) == {"x": "plain"}


def test_a_database_of_version_6_learns_which_tenants_are_plain(
    fresh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = migrations.STEPS
    monkeypatch.setattr(migrations, "STEPS", released[:6])
    with SQLAlchemySaver(fresh_url, tenant="sealed", encryption_key=KEY) as saver:
        put(saver, config(), {"x": 1})
        for tenant, leave in ("blobs", _blob_that_nothing_refers_to), ("writes", _writes):
            with SQLAlchemySaver(fresh_url, tenant=tenant) as other:
                leave(other)
        table = saver._tables.tenants
        with saver.engine.begin() as connection:  # as version 6 left it
            connection.execute(table.delete().where(table.c.tenant != "sealed"))
            sealed = connection.execute(select(table)).one()
    monkeypatch.setattr(migrations, "STEPS", released)
    with SQLAlchemySaver(fresh_url, tenant="new") as saver, saver.engine.connect() as connection:
        found = connection.execute(select(table).order_by(table.c.tenant)).all()
    names = ("blobs", "new", "writes")
    plain = [(name, "plain", b"") for name in names]
    assert [tuple(row) for row in found] == [*plain[:2], tuple(sealed), plain[2]]
