"""Defects reproduced in the official savers, and in ones of others: absent here, each by name."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import EncryptionError, StorageError
from tests.checkpoint.helpers import checkpoint, config, put, values_of

KEY = bytes(range(32))


def _within(seconds: float, call: Any) -> Any:
    """Run in a thread; a deadlock is a failure and not a hang."""
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "deadlock"
    return box[0]


def test_put_inside_a_listing_does_not_deadlock(url: str) -> None:
    with SQLAlchemySaver(url, pool_size=1) as saver:
        place = config()
        for step in range(120):  # more than two pages
            place = put(saver, place, {"x": step}, step=step)

        def work() -> int:
            seen = 0
            for entry in saver.list(config()):
                put(saver, entry.config, {"x": "added"})
                saver.get_tuple(entry.config)
                seen += 1
            return seen

        assert _within(60, work) == 120


async def test_aput_inside_an_async_listing_does_not_deadlock(url: str) -> None:
    async with SQLAlchemySaver(url, pool_size=1) as saver:
        place: Any = config()
        for step in range(60):
            place = await saver.aput(
                place, checkpoint({"x": step}), {"source": "loop", "step": step}, {"x": "1"}
            )

        async def work() -> int:
            seen = 0
            async for entry in saver.alist(config()):
                await saver.aput_writes(entry.config, [("x", 1)], f"task{seen}")
                seen += 1
            return seen

        assert await asyncio.wait_for(work(), 60) == 60


def test_an_open_listing_blocks_no_other_thread(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = config()
        for step in range(60):
            place = put(saver, place, {"x": step})
        listing = saver.list(config())
        next(listing)
        assert _within(30, lambda: put(saver, place, {"x": "meanwhile"}))
        assert len(list(listing)) == 59


def test_nul_surrogates_and_strange_numbers_round_trip(url: str) -> None:
    values = {
        "nul": "a\x00b",
        "lone": "x\ud800y",
        "pair": "🙂",
        "nan": math.nan,
        "inf": [math.inf],
        "ninf": -math.inf,
        "nested": {"k\udfff": ["?", "deep \ud83d", ("t", "\x00")]},
        "question": "is this plain?",
        "big": 2**63 - 1,
    }
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), values)
        read = values_of(saver, place)
        assert math.isnan(read.pop("nan"))
        expected = {name: value for name, value in values.items() if name != "nan"}
        expected["nested"] = {"k\udfff": ["?", "deep \ud83d", ["t", "\x00"]]}
        assert read == expected
        saver.put_writes(place, [("lone", "w\udc00"), ("nul", "\x00")], "task")
        found = saver.get_tuple(place)
        assert found is not None
        assert [write[2] for write in found.pending_writes or ()] == ["w\udc00", "\x00"]


def test_messages_with_a_lone_surrogate_round_trip(url: str) -> None:
    from langchain_core.messages import AIMessage, HumanMessage

    said = [HumanMessage("half an emoji \ud83d"), AIMessage("what?", id="1")]
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"messages": said})
        assert values_of(saver, place)["messages"] == said
        assert said[0].content == "half an emoji \ud83d"


def test_metadata_with_nan_nul_and_surrogates_is_stored(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        put(saver, config(), {"x": 1}, score=math.inf, text="a\ud800b", deep={"nul": "\x00"})
        found = saver.get_tuple(config())
        assert found is not None
        assert found.metadata["score"] == math.inf  # type: ignore[typeddict-item]
        assert found.metadata["text"] == "a\ud800b"  # type: ignore[typeddict-item]
        assert found.metadata["deep"] == {"nul": "\x00"}  # type: ignore[typeddict-item]
        assert len(list(saver.list(None, filter={"text": "a\ud800b"}))) == 1


def test_an_int_thread_id_works(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(42), {"x": 1})
        saver.put_writes(config(42, place["configurable"]["checkpoint_id"]), [("x", 2)], "task")
        assert values_of(saver, config(42)) == values_of(saver, config("42")) == {"x": 1}
        assert len(list(saver.list(config(42)))) == 1
        saver.delete_thread(42)  # type: ignore[arg-type]
        assert saver.get_tuple(config("42")) is None


def test_encrypted_strings_are_not_plain_in_the_row(tmp_path: Any) -> None:
    path = tmp_path / "a.db"
    with SQLAlchemySaver(path, encryption_key=KEY) as saver:
        place = put(saver, config(), {"short": "canary-one", "long": "canary-two" * 100})
        saver.put_writes(place, [("short", "canary-three")], "task")
    assert b"canary" not in path.read_bytes()


def test_a_deletion_that_fails_half_way_changes_nothing(url: str) -> None:
    """The official SQLite saver commits in `finally`."""
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": "long " * 200})
        saver.put_writes(place, [("x", 1)], "task")
        before = saver.stats()
        with saver.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE fact_tombstones RENAME TO elsewhere")
        with pytest.raises(StorageError):
            saver.delete_thread("t")
        after = saver.stats()
        assert (after.checkpoints, after.writes, after.blobs) == (1, 1, 1)
        assert before.checkpoints == 1
        found = saver.get_tuple(place)
        assert found is not None
        assert found.pending_writes == [("task", "x", 1)]
        with saver.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO fact_tombstones")
        saver.delete_thread("t")
        assert saver.stats().checkpoints == 0


async def test_sync_methods_work_on_a_running_loop(url: str) -> None:
    """AsyncSqliteSaver's hang there."""
    async with SQLAlchemySaver(url) as saver:
        place = await saver.aput(config(), checkpoint({"x": 1}), {"source": "loop"}, {"x": "1"})
        assert values_of(saver, place) == {"x": 1}
        put(saver, place, {"x": 2})
        assert len(list(saver.list(None))) == 2


def test_a_constant_channel_is_stored_once(tmp_path: Any) -> None:
    """The official SQLite saver stores the whole state again at every step."""
    path = tmp_path / "a.db"
    constant = bytes(range(256)) * 36
    with SQLAlchemySaver(path) as saver:
        place = put(saver, config(), {"big": constant, "step": 0}, {"big": 1, "step": 0})
        for step in range(1, 200):
            place = put(
                saver,
                place,
                {"big": constant, "step": step},
                {"big": 1, "step": step},
                {"step": step},
            )
        assert saver.stats().blobs == 1
        assert values_of(saver, place) == {"big": constant, "step": 199}
    assert path.stat().st_size < 400_000  # SqliteSaver: 1.89 MB


def test_files_shrink_after_a_deletion_and_a_vacuum(tmp_path: Any) -> None:
    path = tmp_path / "a.db"
    with SQLAlchemySaver(path) as saver:
        for step in range(100):
            put(saver, config(), {"x": f"{step}" * 5000})
        saver.vacuum()
        full = path.stat().st_size
        saver.delete_thread("t")
        saver.vacuum()
        assert path.stat().st_size < full / 4


class Payload:
    """Something that a plain msgpack reader would build again."""

    made = 0

    def __init__(self, value: int = 0) -> None:
        Payload.made += 1


def test_types_off_the_allow_list_are_never_built(url: str) -> None:
    """CVE-2025-64439, CVE-2026-28277, CVE-2026-27794: strict without being asked."""
    import ormsgpack

    Payload.made = 0
    sealed = ormsgpack.packb(
        Payload.__new__(Payload),
        default=lambda _: ormsgpack.Ext(0, ormsgpack.packb((__name__, "Payload", 7))),
    )
    assert (
        JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(("msgpack", sealed))
        is not None
    )
    assert Payload.made == 1  # so the bytes are live ammunition
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": 1})
        table = saver._tables.channels
        with saver.engine.begin() as connection:
            connection.execute(table.update().values(kind="msgpack", data=sealed))
        assert values_of(saver, place)["x"] == 7  # the raw payload, nothing built
        assert Payload.made == 1
        with saver.engine.begin() as connection:
            connection.execute(table.update().values(kind="pickle", data=b"cos\nsystem\n."))
        with pytest.raises(StorageError, match="kind of a value is known"):
            saver.get_tuple(place)


def test_an_encrypted_saver_refuses_plaintext_rows(url: str) -> None:
    with SQLAlchemySaver(url, encryption_key=KEY) as saver:
        place = put(saver, config(), {"x": 1})
        kind, data = JsonPlusSerializer().dumps_typed("forged")
        table = saver._tables.channels
        with saver.engine.begin() as connection:
            connection.execute(table.update().values(kind=kind, data=data))
        with pytest.raises(EncryptionError, match="encrypted exactly where"):
            saver.get_tuple(place)


def test_a_full_pool_of_readers_does_not_stop_a_writer(url: str) -> None:
    """One lock for all would: throughput of a pool was that of one connection."""
    with SQLAlchemySaver(url, pool_size=2) as saver:
        place = config()
        for step in range(60):
            place = put(saver, place, {"x": step})
        listings = [saver.list(config()) for _ in range(20)]
        for listing in listings:
            next(listing)
        assert _within(30, lambda: put(saver, place, {"x": 1}))
