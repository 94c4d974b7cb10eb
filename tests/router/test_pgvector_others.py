"""pgvector beside others: users with fewer rights, readers that take long, prepared statements."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from sqlalchemy import event, make_url

from deltamem_agents.checkpoint import SQLAlchemySaver
from tests.router.conftest import make_extension
from tests.router.vectors import (
    MATRIX,
    QUESTIONS,
    SERVER,
    column,
    hits,
    open_store,
    run,
    tell,
)


def test_a_key_empties_the_column_whatever_its_user_may(pgvector_url: str) -> None:
    """Who may not use the extension's schema may still give the tenant a key."""
    name = "guest_" + uuid.uuid4().hex[:12]
    make_extension(pgvector_url, "elsewhere")
    with SQLAlchemySaver(pgvector_url) as owner:
        store = open_store(owner)
        assert len(hits(store, tell(store, "a"))) == 5 * len(QUESTIONS)
        assert column(store).count(None) == 0
        run(store, f"CREATE ROLE {name} LOGIN")
        run(store, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        run(store, f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
        with SQLAlchemySaver(make_url(pgvector_url).set(username=name)) as guest:
            assert open_store(guest).status()["search"] == MATRIX
            guest.rekey(bytes(range(16)))
        assert column(store) == [None] * 40
        run(store, f"DROP OWNED BY {name}")
        run(store, f"DROP ROLE {name}")


def test_a_reader_that_takes_long_holds_up_no_store(pgvector_url: str) -> None:
    make_extension(pgvector_url)
    with SQLAlchemySaver(pgvector_url) as saver:
        saver.setup()
        with saver.engine.connect() as reader:
            reader.exec_driver_sql("SELECT count(*) FROM fact_vectors").close()
            started = time.monotonic()
            store = open_store(saver)  # the reader's lock stays until its transaction ends
            assert time.monotonic() - started < 30
            assert store.status()["search"] == MATRIX
            assert len(hits(store, tell(store, "a"))) == 5 * len(QUESTIONS)
        assert open_store(saver).status()["search"] == SERVER


def test_the_question_is_read_once_a_search_and_not_once_a_row(pgvector_url: str) -> None:
    """A plan that the server keeps does not know the question's vector beforehand."""
    make_extension(pgvector_url)
    told: list[str] = []
    with SQLAlchemySaver(pgvector_url) as saver:
        store = open_store(saver)
        scope = tell(store, "a")

        @event.listens_for(saver.engine, "before_cursor_execute")
        def keep(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if "<#>" in statement:
                told.append(statement)

        assert hits(store, scope)
        names: list[str] = []
        for name in re.findall(r"%\((\w+)\)s", told[0]):
            names += [] if name in names else [name]
        statement = re.sub(r"%\((\w+)\)s", lambda m: f"${names.index(m[1]) + 1}", told[0])
        with saver.engine.connect() as connection:
            explained = connection.exec_driver_sql(
                "EXPLAIN (GENERIC_PLAN, VERBOSE, COSTS OFF) " + statement.replace("%%", "%")
            )
            lines = [str(line) for line in explained.scalars()]
    casts = [line for line in lines if re.search(r"\$\d+.*::(\w+\.)?vector", line)]
    at = next(n for n, line in enumerate(lines) if "InitPlan" in line)
    assert casts == lines[at + 2 : at + 3], "\n".join(lines)
