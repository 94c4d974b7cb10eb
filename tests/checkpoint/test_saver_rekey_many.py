"""Changes of key of many contents, several at once, and where the server isolates more."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import event, make_url

from deltamem_agents.checkpoint import SQLAlchemySaver, rekey, writing
from deltamem_agents.errors import EncryptionError
from deltamem_agents.router import FactStore
from deltamem_agents.router.transactions import write
from tests.checkpoint.helpers import config, memory, put, values_of

KEYS = {"plain": None, "one": bytes(range(32)), "two": bytes(range(1, 33))}
CHANGES = [("one", "two"), ("plain", "one"), ("one", "plain")]


def _write(saver: SQLAlchemySaver, place: Any, text: str) -> Any:
    place = put(saver, place, {"short": text, "long": text * 200, "m": memory(len(text))})
    saver.put_writes(place, [("short", text), ("long", text * 200)], "task")
    return place


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_contents_of_several_pages(
    url: str, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    """Blobs that checkpoints share, memories, writes, and what is in the rows themselves."""
    monkeypatch.setattr(rekey, "PAGE", 3)
    monkeypatch.setattr(rekey, "PAGE_BYTES", 4000)
    with (
        SQLAlchemySaver(url, encryption_key=KEYS[old]) as saver,
        SQLAlchemySaver(url, tenant="other") as other,
    ):
        place, wanted = config(), []
        for number in range(8):
            values: dict[str, Any] = {
                f"c{i}": f"{number} {i} " * (90 if i else 2000) for i in range(4)
            }
            values |= {"m": memory(number), "kept": "kept " * 200, "short": number}
            versions = {**dict.fromkeys(values, f"{number}"), "kept": "1"}
            fresh = {name: version for name, version in versions.items() if name != "kept"}
            place = put(saver, place, values, versions, fresh if number else versions)
            saver.put_writes(place, [("x", "write " * 200), ("y", number)], "task")
            wanted.append((place, values))
        theirs = put(other, config(), wanted[0][1])
        held = saver.stats()
        saver.rekey(KEYS[new])
        assert saver.stats().blobs == held.blobs
        for one, values in wanted:
            assert values_of(saver, one) == values
            assert saver.memory_at(one) == values["m"]
        assert values_of(other, theirs) == wanted[0][1]
        written = [one[2] for entry in saver.list(None) for one in entry.pending_writes or ()]
        assert written == [value for i in reversed(range(8)) for value in ("write " * 200, i)]
        saver.vacuum()
        assert saver.stats().blobs == held.blobs
        saver.delete_thread("t")
        assert (saver.stats().blobs, saver.stats().memories) == (0, 0)


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_more_contents_take_no_more_statements(url: str, old: str, new: str) -> None:
    counts = []
    for blobs in 2, 12:
        with SQLAlchemySaver(url, tenant=f"{blobs}", encryption_key=KEYS[old]) as saver:
            place = config()
            for number in range(blobs):
                place = _write(saver, place, f"{number}")
            ran: list[str] = []
            event.listen(
                saver.engine, "before_cursor_execute", lambda *a, ran=ran: ran.append(a[2])
            )
            saver.rekey(KEYS[new])
            counts.append(len(ran))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_several_changes_one_after_another(
    url: str, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    """Whoever writes by the saver goes on, however often its key was changed meanwhile."""
    with SQLAlchemySaver(url, encryption_key=KEYS[old]) as saver, ThreadPoolExecutor(1) as pool:
        prepare = writing.prepare
        changes = [KEYS[new], bytes(16), KEYS["two"], KEYS["one"]]

        def late(*parts: Any) -> Any:
            made = prepare(*parts)
            if changes:
                pool.submit(saver.rekey, changes.pop()).result(60)
            return made

        monkeypatch.setattr(writing, "prepare", late)
        assert values_of(saver, put(saver, config(), {"x": "y"})) == {"x": "y"}
        assert not changes


def test_several_changes_beside_a_fact_store(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        store, changes = FactStore(saver), [bytes(16), KEYS["two"], KEYS["one"]]

        def work(shelf: Any) -> str:
            if changes:
                saver.rekey(changes.pop())
            return write(shelf, lambda connection: "written")

        assert store.access.run(work) == "written"
        assert not changes


async def test_a_change_that_comes_before_another_one_is_known(url: str) -> None:
    """It holds, and has not returned yet: to this saver it is no stranger's."""
    with SQLAlchemySaver(url, encryption_key=KEYS["one"]) as saver:
        place = put(saver, config(), {"x": "before"})
        for key in KEYS["two"], KEYS["one"]:
            change = saver._rekeying(saver._serde_for(key))
            saver._tenancy.run(saver.serde, saver._database, change)
            if key == KEYS["two"]:
                saver.rekey(bytes(16))
            else:
                await saver.arekey(bytes(24))
            assert values_of(saver, place) == {"x": "before"}
        await saver.aclose_loop()


def test_a_change_to_plain_that_is_long_past_is_no_leave_to_write_in_plain(url: str) -> None:
    with SQLAlchemySaver(url, encryption_key=KEYS["one"]) as saver:
        saver.rekey(None)
        saver.rekey(KEYS["one"])
        with SQLAlchemySaver(url, encryption_key=KEYS["one"]) as other:
            other.rekey(None)
        with pytest.raises(EncryptionError):
            put(saver, config(), {"x": "canary"})


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_writers_of_a_server_that_isolates_more(
    database: Callable[..., str], monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    """There a statement sees what was there before it waited for the change of key."""
    url = make_url(database("postgresql")).update_query_dict(
        {"options": f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}"}
    )
    with (
        SQLAlchemySaver(url) as saver,
        SQLAlchemySaver(url) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        place = _write(saver, config(), "before")
        assert values_of(other, place)["short"] == "before"
        seal, late = rekey._blobs, []

        def slow(change: Any) -> None:
            late.append(pool.submit(put, other, config("late"), {"x": "canary"}))
            late.append(pool.submit(other.put_writes, place, [("x", "canary")], "other"))
            wait(late, 0.5)
            seal(change)

        monkeypatch.setattr(rekey, "_blobs", slow)
        saver.rekey(KEYS["one"])
        for one in late:
            with pytest.raises(EncryptionError):
                one.result(60)
        assert len(list(saver.list(None))) == 1
        assert values_of(saver, _write(saver, place, "after"))["short"] == "after"
