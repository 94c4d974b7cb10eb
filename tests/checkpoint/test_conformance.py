"""LangGraph's conformance suite: eight groups, every database and driver, async and sync."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from deltamem_agents.checkpoint import SQLAlchemySaver
from tests.checkpoint.sync_adapter import SyncAdapter

CASES = [
    ("sqlite", "sqlite", "sqlite3"),
    ("sqlite", "sqlite+aiosqlite", "aiosqlite"),
    ("postgresql", "postgresql+psycopg", "psycopg"),
    ("postgresql", "postgresql+asyncpg", "asyncpg"),
    ("mariadb", "mariadb+asyncmy", "asyncmy"),
    ("mariadb", "mariadb+pymysql", "pymysql"),
]
SYNC_CASES = [case for case in CASES if case[2] in ("sqlite3", "psycopg", "pymysql")]
ASYNC_CASES = [case for case in CASES if case[2] != "pymysql"]
COUNTS = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "delete_for_runs": 7,
    "copy_thread": 8,
    "prune": 8,
}


async def _run(name: str, open_saver: Callable[[], Any], shown: Callable[[str], None]) -> None:
    @checkpointer_test(name=name)
    async def factory() -> AsyncIterator[Any]:
        async with open_saver() as saver:
            yield saver

    report = await validate(factory)
    table = {group: result.tests_passed for group, result in report.results.items()}
    groups = ", ".join(f"{group} {count}" for group, count in table.items())
    shown(f"conformance | {name:16} | {sum(table.values())} passed | {groups}")
    failures = {
        group: result.failures
        for group, result in report.results.items()
        if result.failures or not result.passed
    }
    assert not failures
    assert table == COUNTS


@pytest.mark.parametrize(
    ("backend_name", "driver", "label"), ASYNC_CASES, ids=[c[2] for c in ASYNC_CASES]
)
async def test_conformance_of_the_async_methods(
    database: Callable[[str], str],
    backend_name: str,
    driver: str,
    label: str,
    shown: Callable[[str], None],
) -> None:
    url = database(backend_name)
    url = driver + url[url.index("://") :]
    await _run(f"{label} async", lambda: SQLAlchemySaver(url), shown)


@pytest.mark.parametrize(
    ("backend_name", "driver", "label"), SYNC_CASES, ids=[c[2] for c in SYNC_CASES]
)
async def test_conformance_of_the_sync_methods(
    database: Callable[[str], str],
    backend_name: str,
    driver: str,
    label: str,
    shown: Callable[[str], None],
) -> None:
    url = database(backend_name)

    class Opened:
        async def __aenter__(self) -> Any:
            self.saver = SQLAlchemySaver(url)
            self.saver.setup()
            return SyncAdapter(self.saver)

        async def __aexit__(self, *error: object) -> None:
            self.saver.close()

    await _run(f"{label} sync", Opened, shown)
