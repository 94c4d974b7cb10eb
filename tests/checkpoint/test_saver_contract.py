"""What LangGraph relies on beyond its suite, on each database, sync and async."""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import (
    ConfigError,
    ConflictError,
    CorruptStorageError,
    MissingThreadError,
    SchemaVersionError,
    SerializationError,
    StorageError,
    ThreadHistoryError,
)
from tests.checkpoint.helpers import checkpoint, config, memory, put, sqlite_path, values_of


def test_versions_grow_from_nothing_int_and_text(tmp_path: Any) -> None:
    saver = SQLAlchemySaver(tmp_path / "a.db")
    assert saver.get_next_version(None, None).startswith("0" * 31 + "1.")
    assert saver.get_next_version(41, None).startswith("0" * 30 + "42.")
    chain = [saver.get_next_version(None, None)]
    for _ in range(20):
        chain.append(saver.get_next_version(chain[-1], None))
    assert chain == sorted(chain)
    assert saver.get_next_version(chain[5], None) != saver.get_next_version(chain[5], None)


def test_forks_with_equal_plain_versions_keep_their_own_values(url: str) -> None:
    """Two branches write version 2 of one channel; a store keyed by version mixes them up."""
    with SQLAlchemySaver(url) as saver:
        root = put(saver, config(), {"x": "root", "y": "same"}, {"x": 1, "y": 1})
        left = put(saver, root, {"x": "left", "y": "same"}, {"x": 2, "y": 1}, {"x": 2})
        right = put(saver, root, {"x": "right", "y": "same"}, {"x": 2, "y": 1}, {"x": 2})
        below = put(saver, left, {"x": "left", "y": "new"}, {"x": 2, "y": 2}, {"y": 2})
        assert values_of(saver, root) == {"x": "root", "y": "same"}
        assert values_of(saver, left) == {"x": "left", "y": "same"}
        assert values_of(saver, right) == {"x": "right", "y": "same"}
        assert values_of(saver, below) == {"x": "left", "y": "new"}


def test_unchanged_values_that_the_parent_lacks_are_not_lost(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        parent = put(saver, config(), {"x": "old"}, {"x": 1})
        child = put(saver, parent, {"x": "other", "z": "never stored"}, {"x": 7, "z": 1}, {})
        assert values_of(saver, child) == {"x": "other", "z": "never stored"}
        orphan = config(checkpoint_id="1ef00000-0000-6000-8000-000000000000")
        alone = put(saver, orphan, {"x": "alone"}, {"x": 1}, {})
        assert values_of(saver, alone) == {"x": "alone"}


def test_a_checkpoint_stored_again_takes_the_new_values(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        made = checkpoint({"x": 1, "gone": memory()})
        saver.put(config(), made, {"source": "loop", "step": 1}, made["channel_versions"])
        made["channel_values"] = {"x": 2, "new": "n"}
        made["channel_versions"] = {"x": "2", "new": "1"}
        place = saver.put(config(), made, {"source": "loop", "step": 9}, made["channel_versions"])
        found = saver.get_tuple(place)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"x": 2, "new": "n"}
        assert found.metadata["step"] == 9
        assert saver.memories("t") == []
        assert len(list(saver.list(config()))) == 1


def test_writes_come_back_by_path_task_and_index(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": 1})
        saver.put_writes(place, [("b", 1), ("a", 2)], "task-z", "~1")
        saver.put_writes(place, [("c", 3)], "task-a", "~2")
        saver.put_writes(place, [("d", 4)], "task-m", "")
        saver.put_writes(place, [("e", 5)], "task-b", "~1")
        found = saver.get_tuple(place)
        assert found is not None
        assert found.pending_writes == [
            ("task-m", "d", 4),
            ("task-b", "e", 5),
            ("task-z", "b", 1),
            ("task-z", "a", 2),
            ("task-a", "c", 3),
        ]


def test_writes_are_kept_once_special_ones_replaced(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": 1})
        saver.put_writes(place, [("ch", "first")], "task")
        saver.put_writes(place, [("ch", "second")], "task")
        saver.put_writes(place, [("__error__", "one")], "task")
        saver.put_writes(place, [("__error__", "two")], "task")
        found = saver.get_tuple(place)
        assert found is not None
        assert found.pending_writes == [("task", "__error__", "two"), ("task", "ch", "first")]


def test_writes_may_come_before_their_checkpoint(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        made = checkpoint({"x": 1})
        saver.put_writes(config(checkpoint_id=made["id"]), [("ch", "early" * 100)], "task")
        place = saver.put(config(), made, {"source": "loop", "step": 0}, {"x": "1"})
        found = saver.get_tuple(place)
        assert found is not None
        assert found.pending_writes == [("task", "ch", "early" * 100)]


async def test_sync_and_async_methods_see_one_store(url: str) -> None:
    async with SQLAlchemySaver(url) as saver:
        place = await asyncio.to_thread(put, saver, config(), {"x": 1, "m": memory()})
        found = await saver.aget_tuple(place)
        assert found is not None
        assert found.checkpoint["channel_values"]["m"] == memory()
        made = checkpoint({"x": 2, "m": memory()}, {"x": "2", "m": "1"})
        below = await saver.aput(place, made, {"source": "loop", "step": 1}, {"x": "2"})
        await saver.aput_writes(below, [("x", 3)], "task")
        assert values_of(saver, below) == {"x": 2, "m": memory()}
        assert [entry.config async for entry in saver.alist(config())] == [below, place]
        assert [entry.checkpoint_id for entry in await saver.amemories("t")] == [
            place["configurable"]["checkpoint_id"],
            below["configurable"]["checkpoint_id"],
        ]
        assert await saver.amemory_at(config()) == memory()


def test_one_saver_serves_several_event_loops(url: str) -> None:
    saver = SQLAlchemySaver(url)

    async def turn(step: int) -> int:
        made = checkpoint({"x": step})
        await saver.aput(config(f"t{step}"), made, {"source": "loop", "step": step}, {"x": "1"})
        found = await saver.aget_tuple(config(f"t{step}"))
        assert found is not None
        await saver.aclose_loop()
        return found.checkpoint["channel_values"]["x"]

    assert [asyncio.run(turn(step)) for step in range(3)] == [0, 1, 2]
    saver.close()


def test_shallow_copy_and_allow_list(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": 1})
        clone = copy.copy(saver)
        assert values_of(clone, place) == {"x": 1}
        wider = saver.with_allowlist([("tests.checkpoint.helpers", "Thing")])
        assert wider is not saver
        assert isinstance(wider, SQLAlchemySaver)
        assert wider.engine is saver.engine
        assert wider.tenant == saver.tenant
        assert wider.serde is not saver.serde
        assert values_of(wider, place) == {"x": 1}
        below = put(wider, place, {"x": 2})
        assert values_of(saver, below) == {"x": 2}


def test_threads_put_at_the_same_time(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        shared = "shared content " * 50
        failures: list[BaseException] = []

        def work(name: int) -> None:
            try:
                place = config(f"t{name % 3}")
                for step in range(6):
                    place = put(saver, place, {"x": step, "s": shared, "own": f"{name}" * 600})
                    saver.put_writes(place, [("s", shared), ("x", step)], f"task{name}")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(list(saver.list(None))) == 36
        assert saver.stats().blobs == 7


def test_tenants_do_not_meet(url: str) -> None:
    text = "the same long content " * 40
    with SQLAlchemySaver(url, tenant="red") as red, SQLAlchemySaver(url, tenant="blue") as blue:
        put(red, config(), {"x": text, "m": memory(1)}, run_id="r")
        place = put(blue, config(), {"x": text, "m": memory(2)}, run_id="r")
        assert red.memory_at(config()) == memory(1)
        assert blue.memory_at(config()) == memory(2)
        assert len(list(red.list(None))) == len(list(blue.list(None))) == 1
        assert red.stats().blobs == blue.stats().blobs == 2
        red.delete_for_runs(["r"])
        assert red.get_tuple(config()) is None
        assert red.get_tuple(place) is None
        assert values_of(blue, place) == {"x": text, "m": memory(2)}


def test_a_given_engine_is_used_and_never_disposed(url: str) -> None:
    engine = create_engine(url)
    checkouts = []
    event.listen(engine, "checkout", lambda *parts: checkouts.append(1))
    with SQLAlchemySaver(engine) as saver:
        assert saver.engine is engine
        place = put(saver, config(), {"x": 1})
        assert values_of(saver, place) == {"x": 1}
        asyncio.run(_reads(saver, place))
    pool = engine.pool
    with engine.connect() as connection:
        assert inspect(connection).has_table("checkpoints")
    assert engine.pool is pool
    assert pool.checkedout() == 0  # type: ignore[attr-defined]
    assert len(checkouts) >= 4
    engine.dispose()


async def _reads(saver: SQLAlchemySaver, place: Any) -> None:
    found = await saver.aget_tuple(place)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"x": 1}


async def test_a_given_async_engine_is_never_disposed(url: str) -> None:
    drivers = {
        "sqlite": "sqlite+aiosqlite",
        "postgresql+psycopg": "postgresql+psycopg",
        "mariadb+pymysql": "mariadb+asyncmy",
    }
    name, rest = url.split("://", 1)
    engine = create_async_engine(f"{drivers[name]}://{rest}")
    async with SQLAlchemySaver(engine) as saver:
        made = checkpoint({"x": 1})
        place = await saver.aput(config(), made, {"source": "loop", "step": 0}, {"x": "1"})
        await _reads(saver, place)
        assert values_of(saver, place) == {"x": 1}  # sync: an engine of ours on the same URL
    async with engine.connect() as connection:
        await connection.run_sync(lambda sync: inspect(sync).has_table("checkpoints"))
    await engine.dispose()


def test_fencing_refuses_the_stale_writer_and_keeps_everything(url: str) -> None:
    with SQLAlchemySaver(url) as first, SQLAlchemySaver(url) as second:
        mine = first.fence(config())
        place = put(first, mine, {"x": 1})
        theirs = second.fence(config())
        late = {"configurable": {**mine["configurable"], **place["configurable"]}}
        with pytest.raises(ConflictError, match="newest fencing token"):
            put(first, late, {"x": "stale"})
        with pytest.raises(ConflictError):
            first.put_writes(late, [("x", "stale")], "task")
        good = {"configurable": {**theirs["configurable"], **place["configurable"]}}
        newest = put(second, good, {"x": 2})
        assert [entry.config for entry in first.list(config())] == [newest, place]
        assert values_of(first, place) == {"x": 1}
        found = first.get_tuple(place)
        assert found is not None
        assert "deltamem_fence" not in found.metadata
        put(first, place, {"x": "unfenced writers are not stopped"})


def test_a_config_without_a_thread(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        for place in ({"configurable": {}}, {"configurable": {"thread_id": None}}, {}):
            with pytest.raises(MissingThreadError, match="names a thread"):
                saver.get_tuple(place)
        with pytest.raises(MissingThreadError):
            put(saver, {"configurable": {"checkpoint_ns": ""}}, {"x": 1})
        with pytest.raises(MissingThreadError):
            saver.delete_thread("")
        assert list(saver.list(None)) == []


def test_arguments_that_make_no_sense(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="SQLite, PostgreSQL"):
        SQLAlchemySaver("oracle://host/db")
    with pytest.raises(ConfigError, match="synchronous"):
        SQLAlchemySaver(tmp_path / "a.db", synchronous="MAYBE")
    saver = SQLAlchemySaver(tmp_path / "a.db")
    with pytest.raises(ConfigError, match="limit"):
        list(saver.list(None, limit=-1))
    with pytest.raises(ConfigError, match="strategy"):
        saver.prune(["t"], strategy="half")
    with pytest.raises(ConfigError, match="another one"):
        saver.copy_thread("t", "t")
    with pytest.raises(ThreadHistoryError):
        saver.copy_thread("nobody", "t")
    pickling = SQLAlchemySaver(tmp_path / "b.db", serde=JsonPlusSerializer(pickle_fallback=True))
    with pytest.raises(SerializationError, match="pickle"):
        put(pickling, config(), {"x": 1})
    pickling.close()
    saver.close()
    with pytest.raises(StorageError, match="is open"):
        saver.get_tuple(config())


def test_a_copy_onto_a_thread_that_is_there(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        put(saver, config("a"), {"x": "a"})
        put(saver, config("b"), {"x": "b"})
        with pytest.raises(ConflictError, match="empty"):
            saver.copy_thread("a", "b")
        assert values_of(saver, config("b")) == {"x": "b"}


def test_copied_threads_share_contents_and_then_part(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config("a"), {"x": "long " * 200, "m": memory(3)})
        saver.put_writes(place, [("x", "pending " * 100)], "task", "~p")
        before = saver.stats()
        saver.copy_thread("a", "b")
        after = saver.stats()
        assert (after.blobs, after.blob_bytes) == (before.blobs, before.blob_bytes)
        assert saver.memory_at(config("b")) == memory(3)
        assert len(saver.memories("b")) == 1
        copied = saver.get_tuple(config("b"))
        assert copied is not None
        assert copied.pending_writes == [("task", "x", "pending " * 100)]
        saver.delete_thread("a")
        assert values_of(saver, config("b")) == {"x": "long " * 200, "m": memory(3)}
        saver.delete_thread("b")
        assert saver.stats().blobs == 0


def test_a_database_that_is_no_database(tmp_path: Any) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"these are my notes, not a database " * 100)
    with pytest.raises(CorruptStorageError, match="sound SQLite database"):
        SQLAlchemySaver(path).setup()
    assert path.read_bytes() == b"these are my notes, not a database " * 100


def test_a_truncated_database(tmp_path: Any) -> None:
    path = tmp_path / "a.db"
    with SQLAlchemySaver(path) as saver:
        for step in range(30):
            put(saver, config(), {"x": "content " * 500, "step": step})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(StorageError), SQLAlchemySaver(path) as saver:
        list(saver.list(None))
    assert path.read_bytes() == whole[: len(whole) // 3]


def test_the_newest_ten_are_found_by_index(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = config()
        for step in range(30):
            place = put(saver, place, {"x": step}, step=step)
        assert [entry.metadata["step"] for entry in saver.list(config(), limit=10)] == [
            *range(29, 19, -1)
        ]
        bound = next(iter(saver.list(config(), limit=1, before=place)))
        assert bound.metadata["step"] == 28
        assert list(saver.list(config(), limit=0)) == []
        assert len(list(saver.list(place))) == 1


def test_our_history_equals_the_base_class_on_a_plain_channel(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"seed": [1], "other": 0})
        for step in range(5):
            saver.put_writes(place, [("seed", step), ("other", -step)], f"b{step}", "~2")
            saver.put_writes(place, [("seed", 10 + step)], f"a{step}", "~1")
            place = put(saver, place, {"other": step} if step != 2 else {"other": 9, "seed": [7]})
        ours = saver.get_delta_channel_history(config=place, channels=["seed", "other", "none"])
        base = BaseCheckpointSaver.get_delta_channel_history(
            saver, config=place, channels=["seed", "other", "none"]
        )
        assert dict(ours) == dict(base)
        assert ours["seed"]["seed"] == [7]
        assert [write[2] for write in ours["seed"]["writes"]] == [13, 3, 14, 4]
        asyncio.run(_same_history(saver, place, dict(ours)))


async def _same_history(saver: SQLAlchemySaver, place: Any, expected: Any) -> None:
    found = await saver.aget_delta_channel_history(config=place, channels=["seed", "other", "none"])
    assert dict(found) == expected
    await saver.aclose_loop()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Any) -> None:
    path = tmp_path / "a.db"
    with SQLAlchemySaver(path) as saver:
        put(saver, config(), {"x": 1})
        with saver.engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO schema_migrations (version, name, applied) VALUES (99, 'later', 0)"
            )
    with pytest.raises(SchemaVersionError, match="version"):
        SQLAlchemySaver(path).setup()


def test_the_in_memory_saver_and_ours_agree_on_a_listing(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        for one in (saver, InMemorySaver()):
            place = config("same")
            for step in range(4):
                made = checkpoint({"x": step})
                place = one.put(
                    place, made, {"source": "loop", "step": step, "parents": {}}, {"x": "1"}
                )
        steps = [entry.metadata["step"] for entry in saver.list(config("same"))]
        assert steps == [3, 2, 1, 0]
        found = list(saver.list(config("same")))
        assert [entry.parent_config for entry in found[:-1]] == [
            entry.config for entry in found[1:]
        ]
        assert found[-1].parent_config is None


@pytest.mark.parametrize("source", [":memory:", "sqlite://"])
def test_a_database_in_memory(source: str) -> None:
    with SQLAlchemySaver(source) as saver:
        place = put(saver, config(), {"x": 1})
        asyncio.run(_reads(saver, place))
        for _ in saver.list(None):
            put(saver, place, {"x": 2})
        assert len(list(saver.list(None))) == 2


def test_a_path_is_a_sqlite_file(tmp_path: Any) -> None:
    with SQLAlchemySaver(str(tmp_path / "plain.db")) as saver:
        put(saver, config(), {"x": 1})
    assert sqlite_path(f"sqlite:///{tmp_path}/plain.db").stat().st_size > 0
