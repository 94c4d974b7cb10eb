"""A change of key while others write: what was acknowledged is readable, the rest is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import text

from deltamem_agents.checkpoint import SQLAlchemySaver, reading
from deltamem_agents.errors import EncryptionError
from tests.checkpoint.helpers import bytes_of, config, put, values_of

KEYS = {"plain": None, "one": bytes(range(32)), "two": bytes(range(1, 33))}
CHANGES = [("one", "two"), ("plain", "one"), ("one", "plain")]
ASYNC = {
    "sqlite": ["sqlite", "sqlite+aiosqlite"],
    "postgresql+psycopg": ["postgresql+psycopg", "postgresql+asyncpg"],
    "mariadb+pymysql": ["mariadb"],
}


def _write(saver: SQLAlchemySaver, place: Any, text: str) -> Any:
    place = put(saver, place, {"short": text, "long": text * 200})
    saver.put_writes(place, [("short", text), ("long", text * 200)], "task")
    return place


def _all(saver: SQLAlchemySaver) -> list[Any]:
    return [
        (entry.checkpoint["channel_values"], entry.pending_writes) for entry in saver.list(None)
    ]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_clones_follow(url: str, old: str, new: str) -> None:
    with SQLAlchemySaver(url, encryption_key=KEYS[old]) as saver:
        place = _write(saver, config(), "before")
        clone: Any = saver.with_allowlist([("decimal", "Decimal")])
        assert clone is not saver
        assert clone.get_tuple(place) is not None
        saver.rekey(KEYS[new])
        assert values_of(clone, place)["short"] == "before"
        below = _write(clone, place, "after")
        assert values_of(saver, below)["short"] == "after"
        clone.rekey(KEYS["two"])
        assert len(_all(saver)) == 2
    with SQLAlchemySaver(url, encryption_key=KEYS["two"]) as saver:
        assert len(_all(saver)) == 2


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_savers_with_the_old_key_store_nothing(url: str, old: str, new: str) -> None:
    with (
        SQLAlchemySaver(url, encryption_key=KEYS[old]) as saver,
        SQLAlchemySaver(url, encryption_key=KEYS[old]) as stale,
    ):
        place = _write(saver, config(), "before")
        fenced = stale.fence(config("fenced"))
        assert stale.get_tuple(place) is not None
        saver.rekey(KEYS[new])
        made = saver.stats()
        for attempt in (
            lambda: put(stale, config("b"), {"x": "canary"}),
            lambda: put(stale, config("b"), {"x": "canary" * 200}),
            lambda: put(stale, place, {"short": "before"}, new={}),
            lambda: put(stale, fenced, {"x": "canary"}),
            lambda: stale.put_writes(place, [("x", "canary")], "other task"),
            lambda: stale.put_writes(place, [("__error__", "canary" * 200)], "other task"),
            lambda: stale.get_tuple(place),
            lambda: list(stale.list(None)),
            lambda: stale.copy_thread("t", "copy"),
            lambda: stale.rekey(bytes(16)),
        ):
            with pytest.raises(EncryptionError):
                attempt()
        assert saver.stats() == made
        assert len(_all(saver)) == 1
        if url.startswith("sqlite"):
            assert b"canary" not in bytes_of(url)


async def test_async_writers_with_the_old_key_store_nothing(url: str) -> None:
    scheme = url.partition(":")[0]
    for driver in ASYNC[scheme]:
        source = url.replace(scheme, driver, 1)
        async with (
            SQLAlchemySaver(source, tenant=driver) as saver,
            SQLAlchemySaver(source, tenant=driver) as stale,
        ):
            place = put(saver, config(), {"x": "before"})
            clone: Any = saver.with_allowlist([("decimal", "Decimal")])
            assert await stale.aget_tuple(place) is not None
            await saver.arekey(KEYS["one"])
            for writer in (clone, saver):
                found = await writer.aget_tuple(place)
                assert found is not None
                await writer.aput_writes(place, [("x", "after" * 200)], "task")
                await writer.aput(config("new"), found.checkpoint, {}, {"x": "1"})
            found = await saver.aget_tuple(place)
            assert found is not None
            with pytest.raises(EncryptionError):
                await stale.aput(config("b"), found.checkpoint, {}, {"x": "1"})
            with pytest.raises(EncryptionError):
                await stale.aput_writes(place, [("x", "canary")], "other task")
            assert len([entry async for entry in saver.alist(None)]) == 2
            with pytest.raises(EncryptionError):
                assert [entry async for entry in stale.alist(None)]


def test_a_saver_that_has_the_key_goes_on(url: str) -> None:
    """The same key wrapped anew, or a way back to plain: no reason to refuse."""
    for name in ("one", "plain"):
        with (
            SQLAlchemySaver(url, tenant=name, encryption_key=KEYS[name]) as saver,
            SQLAlchemySaver(url, tenant=name, encryption_key=KEYS[name]) as other,
        ):
            _write(saver, config(), "before")
            _write(other, config("o"), "before")
            saver.rekey(KEYS["two"])
            saver.rekey(KEYS[name])
            _write(other, config("o"), "after")
            assert len(_all(saver)) == len(_all(other)) == 3


class _Writers:
    """Threads that write until told to stop; what was acknowledged, and what was refused."""

    def __init__(self, writers: list[Callable[[str], Any]]) -> None:
        self.stop = threading.Event()
        self.places: list[Any] = []
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(write, number))
            for number, write in enumerate(writers)
        ]

    def _work(self, write: Callable[[str], Any], number: int) -> None:
        count = 0
        while not self.stop.is_set():
            count += 1
            try:
                self.places.append(write(f"w{number}-{count}"))
            except EncryptionError as error:
                self.errors.append(error)
                return

    def __enter__(self) -> _Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, more: int) -> None:
        """Until so many more were acknowledged."""
        goal = len(self.places) + more
        while len(self.places) < goal and any(thread.is_alive() for thread in self._threads):
            self.stop.wait(0.005)


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_what_is_acknowledged_during_a_change_is_readable(url: str, old: str, new: str) -> None:
    with SQLAlchemySaver(url, encryption_key=KEYS[old]) as saver:
        for number in range(10):
            _write(saver, config(f"a{number}"), f"a{number}")
        with (
            SQLAlchemySaver(url, encryption_key=KEYS[old]) as other,
            _Writers(
                [lambda name: _write(saver, config(name), name)] * 3
                + [lambda name: _write(other, config(name), name)] * 2
            ) as writers,
        ):
            writers.wait(10)
            saver.rekey(KEYS[new])
            writers.wait(10)
        assert len(writers.errors) == 2  # the threads of the other saver, and only these
        for place in writers.places:
            assert values_of(saver, place)["short"] == place["configurable"]["thread_id"]
    with SQLAlchemySaver(url, encryption_key=KEYS[new]) as saver:
        assert len(_all(saver)) >= len(writers.places) + 10


def test_writers_of_many_rows_do_not_keep_a_plain_tenant_from_its_key(url: str) -> None:
    """Each holds the rows that it wrote while it goes on; the change of key waits for them all."""

    def write(saver: SQLAlchemySaver, name: str) -> Any:
        return put(saver, config(name), {f"c{i}": f"{name} {i} " * 200 for i in range(12)})

    with SQLAlchemySaver(url) as saver:
        with _Writers([lambda name: write(saver, name)] * 4) as writers:
            writers.wait(12)
            saver.rekey(KEYS["one"])
            writers.wait(4)
        assert not writers.errors
        for place in writers.places:
            assert values_of(saver, place)["c0"].split()[0] == place["configurable"]["thread_id"]


@pytest.mark.parametrize(("old", "new"), CHANGES)
async def test_a_filter_never_finds_nothing_for_want_of_the_key(
    url: str, old: str, new: str
) -> None:
    """What it looks for are hashes by the key: those of another one match no row."""
    async with (
        SQLAlchemySaver(url, encryption_key=KEYS[old]) as saver,
        SQLAlchemySaver(url, encryption_key=KEYS[old]) as stale,
    ):
        put(saver, config(), {"x": 1}, note="this")
        for wanted, count in ({"note": "this"}, 1), ({"note": "other"}, 0):
            assert len(list(stale.list(None, filter=wanted))) == count
        saver.rekey(KEYS[new])
        for note in "this", "other":
            with pytest.raises(EncryptionError):
                list(stale.list(None, filter={"note": note}))
            with pytest.raises(EncryptionError):
                assert [entry async for entry in stale.alist(None, filter={"note": note})]
        assert len(list(saver.list(None, filter={"note": "this"}))) == 1
        assert list(saver.list(None, filter={"note": "other"})) == []


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_filter_beside_a_change_of_its_savers_key(
    url: str, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    with SQLAlchemySaver(url, encryption_key=KEYS[old]) as saver:
        put(saver, config(), {"x": 1}, note="this")
        page, changes = reading.page, [KEYS[new]]

        def late(*parts: Any) -> Any:  # between the hashing and the query
            while changes:
                thread = threading.Thread(target=saver.rekey, args=(changes.pop(),))
                thread.start()
                thread.join()
            return page(*parts)

        monkeypatch.setattr(reading, "page", late)
        assert len(list(saver.list(None, filter={"note": "this"}))) == 1
        assert not changes


@pytest.mark.parametrize("order", [("blobs", "writes"), ("checkpoints", "blobs", "channels")])
def test_a_statement_that_has_begun_gets_the_rest_of_its_tables(
    database: Callable[..., str], order: tuple[str, ...]
) -> None:
    """Writes, and a put, come by their tables in this order; a change of key in between waits."""
    waiting = text(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
        "WHERE NOT granted AND datname = current_database()"
    )
    with SQLAlchemySaver(database("postgresql")) as saver, ThreadPoolExecutor(1) as pool:
        place = _write(saver, config(), "before")
        with saver.engine.begin() as connection:
            first, *rest = (text(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE") for name in order)
            connection.execute(first)
            changed = pool.submit(saver.rekey, KEYS["one"])
            while not connection.scalar(waiting):
                assert not wait([changed], 0.01).done
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            for statement in rest:
                connection.execute(statement)
        assert changed.result(60)
        assert values_of(saver, place)["short"] == "before"
