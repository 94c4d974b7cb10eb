"""The full-text index holds words with their scope in front; older rows are brought to that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select

from deltamem_agents.checkpoint import SQLAlchemySaver, migrations
from deltamem_agents.checkpoint.fact_tables import scoped, unscoped
from deltamem_agents.router import FactStore, HybridRouter, Scope, shelf
from deltamem_agents.router.analyze import opaque

BUS = "Our bus to Graz goes at 22:45 from stop A58."


def test_words_come_back_as_they_were() -> None:
    words = ["zxport", "zx80", "zxport"]
    held = scoped("ab" * 32, words)
    assert all(len(word) > len("zxport") for word in held[:1])
    assert unscoped("ab" * 32, " ".join(held)) == words
    assert not {*held} & {*scoped("cd" * 32, words)}


def test_a_store_of_an_older_version_is_searched_as_before(
    open_saver: Callable[..., SQLAlchemySaver],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Step 5 had the scope as a word of its own, and the others bare."""

    def older(scope_key: str, words: Iterable[str]) -> str:
        return " ".join(["zs" + scope_key[:30], *map(opaque, words)])

    saver = open_saver()
    monkeypatch.setattr(shelf, "index_text", older)
    store = FactStore(saver)
    scope = Scope(store.tenant, "alice")
    store.record(BUS, scope)
    store.record("My port was wrong.", scope)  # a mention, which is not searched
    assert store.search("bus to Graz", scope) == ()
    monkeypatch.undo()
    tables: Any = fact_store_tables(saver)
    with saver.engine.begin() as connection:
        migrations.STEPS[5][1](connection, saver._tables)
    again = FactStore(saver)
    assert HybridRouter(again).probe("What time does our bus to Graz go?", scope).facts
    with saver.engine.begin() as connection:
        found = connection.execute(select(tables.facts).where(tables.facts.c.scope == scope.key))
        words = {again.access.shelf.fact(row).kind: row.words for row in found}
    assert words["mention"] is None
    assert words["time"].split()[0].startswith("zs" + scope.key[:16])


def fact_store_tables(saver: SQLAlchemySaver) -> Any:
    return FactStore(saver).access.tables
