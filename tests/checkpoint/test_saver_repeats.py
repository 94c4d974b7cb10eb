"""A checkpoint that is there already is stored again, and takes its new content.

MariaDB counts the row of a checkpoint that stays as it was like a new one; its channels do not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.ext.asyncio import create_async_engine

from deltamem_agents.checkpoint import SQLAlchemySaver, writing
from deltamem_agents.checkpoint.rewriting import Rewrite, rewrite_checkpoints
from tests.checkpoint.helpers import checkpoint, config, memory, put, values_of

ABOUT: Any = {"source": "loop", "step": 0, "parents": {}}
OLD = {"x": "old " * 300, "y": 1, "m": memory(1)}
NEW = {"x": "new " * 300, "y": 2, "m": memory(2)}


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """All puts come within one millisecond, so that the repeated one changes nothing of the row."""
    monkeypatch.setattr(writing, "time", SimpleNamespace(time=lambda: 1_750_000_000.0))


@pytest.fixture(params=["ours", "given"])
def saver(request: pytest.FixtureRequest, url: str) -> Iterator[SQLAlchemySaver]:
    """On an engine of ours, and on one that was given, as the server isolates by default."""
    engine = create_engine(url)
    with SQLAlchemySaver(engine if request.param == "given" else url) as made:
        yield made
    engine.dispose()


def _rows(saver: SQLAlchemySaver) -> list[int | None]:
    tables = saver._tables
    with saver.engine.connect() as connection:
        return [
            connection.scalar(select(func.count()).select_from(table))
            for table in (tables.checkpoints, tables.channels, tables.memory_states)
        ]


@pytest.mark.usefixtures("frozen")
def test_the_same_put_twice(saver: SQLAlchemySaver) -> None:
    made = checkpoint(OLD)
    before = put(saver, config(), {"before": 1})
    for _ in range(2):
        place = saver.put(config(), made, ABOUT, made["channel_versions"])
        assert values_of(saver, place) == OLD
    assert values_of(saver, before) == {"before": 1}
    assert _rows(saver) == [2, 4, 1]


@pytest.mark.usefixtures("frozen")
def test_the_same_put_with_other_values(saver: SQLAlchemySaver) -> None:
    made = checkpoint(OLD)
    for values in (OLD, NEW, {**NEW, "m": 0}):
        again: Any = {**made, "channel_values": values}
        place = saver.put(config(), again, ABOUT, made["channel_versions"])
        assert values_of(saver, place) == values
    assert _rows(saver) == [1, 3, 0]


@pytest.mark.usefixtures("frozen")
def test_the_same_put_with_channels_of_its_parent(saver: SQLAlchemySaver) -> None:
    parent = put(saver, config(), OLD)
    made = checkpoint({**OLD, "y": 2}, {"x": "1", "y": "2", "m": "1"})
    for _ in range(2):
        place = saver.put(parent, made, ABOUT, {"y": "2"})
        assert values_of(saver, place) == {**OLD, "y": 2}
    assert _rows(saver) == [2, 6, 2]


def test_a_rewrite_that_changes_values_only(saver: SQLAlchemySaver) -> None:
    below = put(saver, config(), OLD)
    place = put(saver, below, OLD)
    stored = saver.get_tuple(place)
    assert stored is not None
    new: Any = {**stored.checkpoint, "channel_values": NEW}
    for _ in range(2):  # the second one changes nothing at all
        rewrite_checkpoints(saver, [Rewrite(below, new, stored.metadata)])
        assert values_of(saver, place) == NEW
    assert values_of(saver, below) == OLD
    assert _rows(saver) == [2, 6, 2]


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("given", [False, True])
async def test_the_same_put_twice_async(url: str, given: bool) -> None:
    name, rest = url.split("://", 1)
    driver = {"sqlite": "+aiosqlite", "mariadb+pymysql": "+asyncmy"}.get(name, "")
    url = f"{name.split('+')[0] if driver else name}{driver}://{rest}"
    engine = create_async_engine(url)
    async with SQLAlchemySaver(engine if given else url) as saver:
        made = checkpoint(OLD)
        for values in (OLD, OLD, NEW):
            again: Any = {**made, "channel_values": values}
            place = await saver.aput(config(), again, ABOUT, made["channel_versions"])
            found = await saver.aget_tuple(place)
            assert found is not None
            assert found.checkpoint["channel_values"] == values
    await engine.dispose()


@pytest.mark.usefixtures("frozen")
def test_threads_that_put_the_same_checkpoint(saver: SQLAlchemySaver) -> None:
    made = checkpoint(OLD)
    found: list[Any] = []

    def work(number: int) -> None:
        again: Any = {**made, "channel_values": {**OLD, "y": number}}
        try:
            for _ in range(5):
                found.append(saver.put(config(), again, ABOUT, made["channel_versions"]))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [config("t", made["id"])] * 20
    held = values_of(saver, config())
    assert held in [{**OLD, "y": number} for number in range(4)]
    assert _rows(saver) == [1, 3, 1]


def test_a_special_channel_twice_in_one_call_keeps_the_last(url: str) -> None:
    with SQLAlchemySaver(url) as saver:
        place = put(saver, config(), {"x": 1})
        saver.put_writes(place, [("__interrupt__", "one"), ("__interrupt__", "two " * 200)], "task")
        saver.put_writes(place, [("x", 1), ("__error__", "one"), ("__error__", "two")], "mixed")
        found = saver.get_tuple(place)
        assert found is not None
        assert found.pending_writes == [
            ("mixed", "__error__", "one"),
            ("mixed", "x", 1),
            ("task", "__interrupt__", "two " * 200),
        ]
