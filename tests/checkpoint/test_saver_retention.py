"""What goes and what stays: deletion, pruning, retention, runs, and the bytes left behind."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.errors import ConfigError
from tests.checkpoint.helpers import bytes_of, config, memory, put, sqlite_rows, values_of


def _chain(saver: SQLAlchemySaver, thread: str, count: int, **metadata: Any) -> list[Any]:
    places, place = [], config(thread)
    for step in range(count):
        values = {"x": f"{thread} {step} " * 180, "m": memory(step), "same": "constant " * 60}
        place = put(
            saver,
            place,
            values,
            {"x": step, "m": step, "same": 0},
            None if step == 0 else {"x": step, "m": step},
            step=step,
            **metadata,
        )
        saver.put_writes(place, [("x", f"{thread} write {step} " * 60)], f"task{step}")
        places.append(place)
    return places


def test_keep_last_keeps_the_newest_of_each_namespace(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        places = _chain(saver, "a", 6)
        child = [put(saver, config("a", namespace="child"), {"x": step}) for step in range(3)]
        other = _chain(saver, "b", 4)
        report = saver.retain("a", keep_last=2)
        assert (report.checkpoints, report.writes, report.hidden) == (5, 4, 0)
        assert report.blobs == 8  # four texts, four writes; the four memories are b's too
        assert [entry.config for entry in saver.list(config("a"))] == [places[5], places[4]]
        assert len(list(saver.list(config("a", namespace="child")))) == 2
        assert values_of(saver, child[2]) == {"x": 2}
        assert len(list(saver.list(config("b")))) == 4
        assert values_of(saver, places[5])["same"] == "constant " * 60
        assert [record.checkpoint_id for record in saver.memories("a")] == [
            place["configurable"]["checkpoint_id"] for place in places[4:]
        ]
        assert values_of(saver, other[0])["m"] == memory(0)


def test_max_age_takes_old_ones_and_whole_idle_threads(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        _chain(saver, "old", 3)
        _chain(saver, "mixed", 2)
        table = saver._tables.checkpoints
        with saver.engine.begin() as connection:
            connection.execute(table.update().values(created=table.c.created - 86_400_000))
        fresh = put(saver, config("mixed"), {"x": "fresh"})
        dry = saver.retain(max_age=timedelta(hours=1), dry_run=True)
        assert len(list(saver.list(None))) == 6
        report = saver.retain(max_age=timedelta(hours=1))
        assert report == dry
        assert (report.threads, report.checkpoints) == (1, 5)
        assert [entry.config for entry in saver.list(None)] == [fresh]
        assert saver.stats().writes == saver.stats().blobs == 0


def test_both_rules_keep_what_either_keeps(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        _chain(saver, "a", 4)
        assert saver.retain(keep_last=1, max_age=3600).checkpoints == 0
        table = saver._tables.checkpoints
        with saver.engine.begin() as connection:
            connection.execute(table.update().values(created=table.c.created - 86_400_000))
        assert saver.retain(keep_last=1, max_age=3600).checkpoints == 3
        assert saver.retain("nobody", keep_last=1).checkpoints == 0


def test_retention_without_a_rule_is_refused(tmp_path: Any) -> None:
    saver = SQLAlchemySaver(tmp_path / "a.db")
    for rules in ({}, {"keep_last": 0}, {"max_age": -1}):
        with pytest.raises(ConfigError):
            saver.retain(**rules)  # type: ignore[arg-type]
    saver.close()


async def test_async_retention_and_upkeep(url: str) -> None:
    async with SQLAlchemySaver(url) as saver:
        _chain(saver, "a", 4)
        dry = await saver.aretain(keep_last=1, dry_run=True)
        assert dry == await saver.aretain(keep_last=1)
        assert dry.checkpoints == 3
        assert (await saver.astats()).checkpoints == 1
        await saver.avacuum()
        await saver.acopy_thread("a", "b")
        await saver.aprune(["a"], strategy="delete")
        await saver.adelete_thread("b")
        assert (await saver.astats()).blobs == 0


def test_runs_are_deleted_in_all_threads(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        _chain(saver, "a", 3, run_id="one")
        kept = put(saver, config("a"), {"x": "kept"}, run_id="two")
        _chain(saver, "b", 2, run_id="one")
        saver.delete_for_runs(["one", "none"])
        assert [entry.config for entry in saver.list(None)] == [kept]
        assert saver.stats().blobs == 0


def test_statistics_count_what_is_there(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        _chain(saver, "a", 3)
        saver.copy_thread("a", "b")
        stats = saver.stats()
        assert (stats.threads, stats.checkpoints, stats.hidden) == (2, 6, 0)
        assert (stats.channels, stats.writes, stats.memories) == (18, 6, 6)
        assert stats.blobs == 3 + 3 + 3 + 1
        assert stats.blob_bytes > 3 * memory().nbytes
        assert stats.database_bytes > stats.blob_bytes


def test_memory_rows_can_be_read_by_sql(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with SQLAlchemySaver(url) as saver:
        _chain(saver, "a", 2)
    rows = sqlite_rows(
        url,
        (
            "SELECT c.checkpoint_id, m.adapter, m.layers, m.heads, m.rank, "
            "m.tokens_written, m.norm FROM memory_states m "
            "JOIN checkpoints c ON c.id = m.checkpoint ORDER BY 1"
        ),
    )
    assert [row[1:6] for row in rows] == [("5" * 64, 3, 2, 8, 7)] * 2
    assert rows[1][6] == pytest.approx(memory(1).norm)


@pytest.mark.parametrize("how", ["delete_thread", "prune", "retain", "delete_for_runs"])
def test_deleted_text_is_gone_from_the_bytes_of_the_file_and_its_log(
    tmp_path: Any, how: str
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    dice = random.Random(5)
    with SQLAlchemySaver(url) as saver:
        keep = put(saver, config("keep"), {"x": "staying text " * 40})
        for thread in range(12):
            place = config(f"t{thread}")
            for step in range(6):
                size = dice.choice([1, 3, 30, 400, 2000])
                last = step == 5
                word = "staying" if last else f"CANARY{thread}x{step}"
                place = put(
                    saver,
                    place,
                    {"x": f"{word} " * size, "tiny": word},
                    run_id="keep" if last else "gone",
                    note=word,
                )
                saver.put_writes(place, [("x", f"{word} write " * size)], word)
        assert b"CANARY" in bytes_of(url)
        if how == "delete_thread":
            for thread in range(12):
                saver.delete_thread(f"t{thread}")
        elif how == "prune":
            saver.prune([f"t{thread}" for thread in range(12)])
        elif how == "retain":
            saver.retain(keep_last=1)
        else:
            saver.delete_for_runs(["gone"])
        assert b"CANARY" not in bytes_of(url)
        assert values_of(saver, keep) == {"x": "staying text " * 40}
        if how != "delete_thread":
            assert len(list(saver.list(None))) == 13


def test_on_the_servers_no_live_row_holds_deleted_text(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        put(saver, config("a"), {"x": "CANARY " * 100, "y": "CANARY"}, note="CANARY")
        saver.put_writes(put(saver, config("a"), {"x": 1}), [("x", "CANARY")], "CANARY")
        saver.delete_thread("a")
        with saver.engine.connect() as connection:
            for table in saver._tables.metadata.sorted_tables:
                if table.name not in ("schema_migrations", "fences", "tenants"):
                    assert connection.execute(table.select()).all() == []


def test_listing_is_not_slowed_by_the_length_of_a_thread(tmp_path: Any) -> None:
    """By the instructions that SQLite's machine carries out; the benchmark takes the time."""
    lengths = {"short": 100, "long": 2000}
    with SQLAlchemySaver(tmp_path / "a.db", synchronous="OFF") as saver:
        for thread, count in lengths.items():
            place = config(thread)
            for step in range(count):
                place = put(saver, place, {"x": step})
    counts = dict.fromkeys(lengths, 0)
    now = "short"

    def count_one() -> None:
        counts[now] += 1

    saver = SQLAlchemySaver(tmp_path / "a.db")
    event.listen(
        saver.engine, "connect", lambda raw, record: raw.set_progress_handler(count_one, 1)
    )
    with saver:
        for now in lengths:
            counts[now] = 0
            assert len(list(saver.list(config(now), limit=10))) == 10
    assert counts["short"] > 100
    assert counts["long"] < 1.1 * counts["short"]
