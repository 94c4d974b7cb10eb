"""pgvector's column, whatever becomes of extension, key and rows."""

from __future__ import annotations

import subprocess
import sys
import uuid

import pytest
from sqlalchemy import make_url

from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.checkpoint.embeddings import add_embeddings, embedding_schema
from deltamem_agents.router import FactStore
from deltamem_agents.router.transactions import write
from tests.router.conftest import make_extension
from tests.router.vectors import (
    MATRIX,
    QUESTIONS,
    SERVER,
    column,
    hits,
    named,
    open_store,
    run,
    same,
    tell,
)

KEY = bytes(range(16))
OPEN = """
import sys
from langchain_core.embeddings import DeterministicFakeEmbedding
from deltamem_agents.checkpoint import SQLAlchemySaver
from deltamem_agents.router import FactStore
saver = SQLAlchemySaver(sys.argv[1])
saver.setup()
print("ready", flush=True)
sys.stdin.readline()
print(FactStore(saver, embeddings=DeterministicFakeEmbedding(size=8)).status()["search"])
saver.close()
"""


def test_the_extension_may_come_late_and_go_again(pgvector_url: str) -> None:
    with SQLAlchemySaver(pgvector_url) as saver:
        early = open_store(saver)
        scope = tell(early, "a")
        expected = hits(early, scope)
        make_extension(pgvector_url)
        assert early.status()["search"] == MATRIX  # the column is made by the next that opens
        store = open_store(saver)
        assert store.status()["search"] == early.status()["search"] == SERVER
        assert column(store) == [None] * 40  # filled by the first search
        same(hits(store, scope), expected)
        assert None not in column(store)
        for _ in range(3):  # statements that the server has prepared must not outlive the type
            same(hits(store, scope), expected)
        run(store, "DROP EXTENSION vector CASCADE")
        assert store.status()["search"] == MATRIX
        same(hits(store, scope), expected)
        make_extension(pgvector_url)
        again = open_store(saver)
        assert again.status()["search"] == SERVER
        same(hits(store, scope), expected)
        assert None not in column(store)


def test_an_encrypted_tenant_is_never_in_the_column(pgvector_url: str) -> None:
    make_extension(pgvector_url)
    with (
        SQLAlchemySaver(pgvector_url, tenant="plain") as plain,
        SQLAlchemySaver(pgvector_url, tenant="sealed", encryption_key=KEY) as sealed,
    ):
        plain_store, store = open_store(plain), open_store(sealed)
        scope = tell(store, "a")
        assert store.status()["search"] == MATRIX
        assert len(hits(store, scope)) == 5 * len(QUESTIONS)
        assert column(plain_store) == [None] * 40
        assert len(hits(plain_store, tell(plain_store, "a"))) == 5 * len(QUESTIONS)
        assert column(plain_store).count(None) == 40


def test_a_change_to_a_key_empties_the_column_of_that_tenant(pgvector_url: str) -> None:
    make_extension(pgvector_url)
    with (
        SQLAlchemySaver(pgvector_url, tenant="one") as saver,
        SQLAlchemySaver(pgvector_url, tenant="two") as other,
    ):
        store, beside = open_store(saver), open_store(other)
        scope, kept = tell(store, "a"), tell(beside, "a")
        expected = hits(store, scope)
        assert len(hits(beside, kept)) == 5 * len(QUESTIONS)
        assert column(store).count(None) == 0
        saver.rekey(KEY)
        held = column(store)
        assert (len(held), held.count(None)) == (80, 40)
        again = hits(store, scope)  # scores count words, whose weights are others without an index
        assert sorted(hit[2] for hit in again) == pytest.approx(
            sorted(h[2] for h in expected), abs=1e-5
        )
        assert store.status()["search"] == MATRIX
        assert beside.status()["search"] == SERVER
        saver.rekey(bytes(range(1, 17)))
        assert column(store).count(None) == 40


def test_rows_follow_copies_and_deletions(pgvector_url: str) -> None:
    make_extension(pgvector_url)
    with (
        SQLAlchemySaver(pgvector_url, tenant="one") as saver,
        SQLAlchemySaver(pgvector_url, tenant="two") as two,
    ):
        store, beside = open_store(saver), open_store(two)
        scope, foreign = tell(store, "a"), tell(beside, "a", 3)
        expected = hits(store, scope)
        assert len(hits(beside, foreign, 20)) == 3 * len(QUESTIONS)
        saver.copy_thread("a", "b")
        copied = store.branch("b")
        assert column(store).count(None) == 40
        same(hits(store, copied), expected)
        assert column(store).count(None) == 0
        canary = named(store, copied, "1007")
        store.forget(copied, fact_ids=[canary.fact_id])
        assert len(column(store, f"fact = {canary.number}")) == 0
        found = [hit.fact.value for q in QUESTIONS for hit in store.search(q, copied, 100)]
        assert len(found) == 39 * len(QUESTIONS)
        assert "1007" not in found
        saver.delete_thread("b")
        assert len(column(store)) == 43
        same(hits(store, scope), expected)


def test_two_that_open_at_once_make_one_column(pgvector_url: str) -> None:
    make_extension(pgvector_url)
    with SQLAlchemySaver(pgvector_url) as saver:
        saver.setup()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, pgvector_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both wait at the same point: now they go on together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=300)[0] for process in processes] == [SERVER + "\n"] * 2
    assert [process.returncode for process in processes] == [0, 0]


def test_the_step_can_be_taken_again(pgvector_url: str) -> None:
    make_extension(pgvector_url)
    with SQLAlchemySaver(pgvector_url) as saver:
        store = open_store(saver)
        shelf = store.access.shelf
        for _ in range(2):
            write(shelf, lambda connection: add_embeddings(connection, shelf.tables))
        with store.engine.connect() as connection:
            assert embedding_schema(connection, shelf.tables) == "public"
        scope = tell(store, "a")
        assert len(hits(store, scope)) == 5 * len(QUESTIONS)


def test_a_column_of_somebody_else_is_left_alone(pgvector_url: str) -> None:
    with SQLAlchemySaver(pgvector_url) as saver:
        saver.setup()
        run(FactStore(saver), "ALTER TABLE fact_vectors ADD COLUMN embedding integer")
        make_extension(pgvector_url)
        store = open_store(saver)
        assert store.status()["search"] == MATRIX
        assert len(hits(store, tell(store, "a"))) == 5 * len(QUESTIONS)


def test_who_may_not_change_the_table_searches_by_the_matrix(pgvector_url: str) -> None:
    name = "guest_" + uuid.uuid4().hex[:12]
    with SQLAlchemySaver(pgvector_url) as owner:
        first = open_store(owner)
        scope = tell(first, "a")
        expected = hits(first, scope)
        make_extension(pgvector_url)
        run(first, f"CREATE ROLE {name} LOGIN")
        run(first, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        run(first, f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
        guest = make_url(pgvector_url).set(username=name)
        with SQLAlchemySaver(guest) as saver:
            store = open_store(saver)
            assert store.status()["search"] == MATRIX
            same(hits(store, scope), expected)
            assert open_store(owner).status()["search"] == SERVER
            assert store.status()["search"] == SERVER
            same(hits(store, scope), expected)
        run(first, f"DROP OWNED BY {name}")
        run(first, f"DROP ROLE {name}")
