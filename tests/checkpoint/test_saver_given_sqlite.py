"""SQLite by an engine that was given: it begins no transaction before the first change."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select

from deltamem_agents.checkpoint import SQLAlchemySaver, guard, migrations, tenancy
from deltamem_agents.router import FactStore, Scope, transactions
from tests.checkpoint.helpers import config, put, values_of

KEY = bytes(range(32))
SCOPE = Scope("default", "t")


@pytest.mark.parametrize("what", ["fact", "copy"])
def test_what_is_written_in_plain_beside_a_change_of_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Between the look at the key and the write nobody changes it: no plain row is left."""
    path = tmp_path / "a.db"
    engine = create_engine(f"sqlite:///{path}")
    with (
        SQLAlchemySaver(path) as saver,
        SQLAlchemySaver(engine) as given,
        ThreadPoolExecutor(1) as pool,
    ):
        put(given, config(), {"x": "y" * 600})
        store = FactStore(given)
        changed: list[Future[bool]] = []

        def late(look: Any) -> Any:
            def looked(*parts: Any, **more: Any) -> None:
                look(*parts, **more)
                if not changed:
                    changed.append(pool.submit(saver.rekey, KEY))
                    wait(changed, 0.3)

            return looked

        if what == "fact":
            monkeypatch.setattr(transactions, "check_key_on", late(guard.check_key_on))
            store.record("My port is 8081.", SCOPE)
        else:
            monkeypatch.setattr(guard, "check_key", late(guard.check_key))
            given.copy_thread("t", "copy")
        assert len(changed) == 1
        changed[0].result(60)
        with saver.engine.connect() as connection:
            bodies = connection.scalars(select(store.access.tables.facts.c.body)).all()
            kinds = connection.scalars(select(saver._tables.checkpoints.c.kind)).all()
        assert all(b"8081" not in body for body in bodies)
        assert set(kinds) == {"msgpack+aes"}
        found = [fact.value for fact in FactStore(saver).facts(SCOPE)]
        assert found == (["8081"] if what == "fact" else [])
    engine.dispose()


@pytest.mark.parametrize("look", [(migrations, "current_version"), (tenancy, "held_key")])
def test_savers_that_start_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: tuple[Any, str]
) -> None:
    """Both look before either writes."""
    path, meeting, real = tmp_path / "a.db", threading.Barrier(2), getattr(*look)
    if look[0] is tenancy:
        SQLAlchemySaver(path, tenant="other").setup()

    def together(*parts: Any) -> Any:
        found = real(*parts)
        if not found:
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(0.5)
        return found

    monkeypatch.setattr(*look, together)
    engines = [create_engine(f"sqlite:///{path}") for _ in range(2)]
    savers = [SQLAlchemySaver(engine) for engine in engines]
    with ThreadPoolExecutor(2) as pool:
        for started in [pool.submit(saver.setup) for saver in savers]:
            started.result(60)
    place = put(savers[0], config(), {"x": 1})
    assert values_of(savers[1], place) == {"x": 1}
    for saver, engine in zip(savers, engines, strict=True):
        saver.close()
        engine.dispose()
