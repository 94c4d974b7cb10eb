"""A connection that breaks under a fact store, and the store afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from langchain_core.messages import HumanMessage
from sqlalchemy import Connection

from deltamem_agents.errors import ConnectionLostError, StorageError
from deltamem_agents.router import FactStore, Scope
from deltamem_agents.router.shelf import Shelf
from deltamem_agents.router.transactions import read, write
from tests.router.conftest import OpenSaver

KILLS = {
    "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
    "mysql": "KILL CONNECTION_ID()",
    "mariadb": "KILL CONNECTION_ID()",
}


Operation = Callable[[Shelf, Callable[[Connection], None]], None]


@pytest.mark.parametrize("operation", [read, write])
def test_a_broken_connection_is_said_to_be_one(open_saver: OpenSaver, operation: Operation) -> None:
    saver = open_saver()
    store, scope = FactStore(saver), Scope(saver.tenant, "a")
    store.record(HumanMessage("My port is 4711.", id="m1"), scope)
    kill = KILLS.get(saver.engine.dialect.name)

    def work(connection: Connection) -> None:
        connection.exec_driver_sql(kill or "SELECT nonsense").close()
        connection.exec_driver_sql("SELECT 1").close()

    with pytest.raises(StorageError) as raised:
        store.access.run(lambda shelf: operation(shelf, work))
    assert isinstance(raised.value, ConnectionLostError) is (kill is not None)
    assert [fact.value for fact in store.facts(scope)] == ["4711"]
    assert store.record(HumanMessage("My port is 4712.", id="m2"), scope)
