"""pgvector beside others: users with fewer rights, readers that take long, prepared statements."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from langchain_core.documents import Document
from sqlalchemy import event, make_url

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore
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


def explained(store: FactStore, options: str, part: str, search: Callable[[], Any]) -> Any:
    """The plan, without knowledge of its parameters, of a statement that a search makes."""
    told: list[tuple[str, Any]] = []

    def keep(connection: Any, cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if part in statement:
            told.append((statement, given))

    event.listen(store.engine, "before_cursor_execute", keep)
    search()
    event.remove(store.engine, "before_cursor_execute", keep)
    statement, given = told[0]
    if "GENERIC_PLAN" in options:
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
        statement = re.sub(r"%\((\w+)\)s", lambda m: f"${names.index(m[1]) + 1}", statement)
        statement, given = statement.replace("%%", "%"), None
    with store.engine.connect() as connection:
        lines = connection.exec_driver_sql(f"EXPLAIN ({options}) {statement}", given)
        return lines.scalars().all()


def test_the_question_is_read_once_a_search_and_not_once_a_row(pgvector_url: str) -> None:
    """A plan that the server keeps does not know the question's vector beforehand."""
    make_extension(pgvector_url)
    with SQLAlchemySaver(pgvector_url) as saver:
        store = open_store(saver)
        scope = tell(store, "a")
        options = "GENERIC_PLAN, VERBOSE, COSTS OFF"
        lines = explained(store, options, "<#>", lambda: store.search("ask", scope))
    casts = [line for line in lines if re.search(r"\$\d+.*::(\w+\.)?vector", line)]
    at = next((n for n, line in enumerate(lines) if "InitPlan" in line), len(lines))
    assert casts == lines[at + 2 : at + 3], "\n".join(lines)
    assert len(casts) == 1


def test_a_search_reads_no_vectors_of_other_scopes(pgvector_url: str) -> None:
    with SQLAlchemySaver(pgvector_url) as saver:
        store = open_store(saver)
        scope = store.branch("a")
        pages = [Document(f"Page {n}.", id=f"d{n}") for n in range(400)]
        store.add_documents(pages, scope, facts=False)
        assert hits(store, scope)
        run(
            store,
            "INSERT INTO fact_vectors SELECT n, model, repeat('0', 64), vector FROM fact_vectors, "
            "generate_series(-4000, -1) n WHERE fact_vectors.fact = 1",
        )
        run(store, "ANALYZE facts, fact_vectors")
        options, part = "ANALYZE, FORMAT JSON", "LEFT OUTER JOIN fact_vectors"
        plans = explained(store, options, part, lambda: store.search("ask", scope))
    assert 0 < rows_read(plans[0][0]["Plan"], "fact_vectors") < 1000


def rows_read(plan: dict[str, Any], table: str) -> int:
    own = plan.get("Actual Rows", 0) + plan.get("Rows Removed by Filter", 0)
    parts = sum(rows_read(part, table) for part in plan.get("Plans", ()))
    return int(parts + own * plan["Actual Loops"] * (plan.get("Relation Name") == table))
