"""A tenant's first key: taken where nothing is stored, refused where anything plain is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deltamem_agents.checkpoint import SQLAlchemySaver
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
