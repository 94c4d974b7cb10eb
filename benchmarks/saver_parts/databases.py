"""PostgreSQL databases of the benchmark's own, and the bytes that a saver leaves."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saver_parts.contestants import run_graph
from sqlalchemy import create_engine, make_url, text

from deltamem_agents.checkpoint import SQLAlchemySaver

POSTGRES = os.environ.get("DELTAMEM_TEST_POSTGRES_URL", "postgresql+psycopg://root@127.0.0.1/test")


@contextmanager
def postgres() -> Iterator[str]:
    server = create_engine(make_url(POSTGRES), isolation_level="AUTOCOMMIT")
    name = "bench_" + uuid.uuid4().hex[:10]
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg:", "postgresql:")


def file_bytes(path: Path) -> int:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def postgres_bytes(url: str) -> int:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
        size = connection.scalar(
            text(
                "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
        )
    engine.dispose()
    return int(size)


def grown(saver: Any, size: Callable[[], int], invokes: int) -> float:
    """Bytes an invoke, without what an empty database has."""
    run_graph(saver, 1)
    before = size()
    run_graph(saver, invokes)
    return (size() - before) / invokes


def bytes_per_invoke(folder: Path, invokes: int) -> None:
    from langgraph.checkpoint.postgres import PostgresSaver
    from langgraph.checkpoint.sqlite import SqliteSaver

    ours_path, theirs_path = folder / "bytes_ours.db", folder / "bytes_theirs.db"
    with SQLAlchemySaver(ours_path) as ours:
        mine = grown(ours, lambda: file_bytes(ours_path), invokes)
    with SqliteSaver.from_conn_string(str(theirs_path)) as theirs:
        their = grown(theirs, lambda: file_bytes(theirs_path), invokes)
    print(
        f"| SQLite | bytes an invoke | {mine:.0f} | {their:.0f} | {mine / their:.2f} |", flush=True
    )
    with postgres() as first, postgres() as second, SQLAlchemySaver(first) as ours:
        mine = grown(ours, lambda: postgres_bytes(first), invokes)
        with PostgresSaver.from_conn_string(plain(second)) as theirs:
            theirs.setup()
            their = grown(theirs, lambda: postgres_bytes(second), invokes)
    print(
        f"| PostgreSQL | bytes an invoke | {mine:.0f} | {their:.0f} | {mine / their:.2f} |",
        flush=True,
    )
