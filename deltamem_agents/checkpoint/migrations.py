"""The schema's versions: append-only, each applied once and recorded with what it did.

SQLite and PostgreSQL change tables inside a transaction, so that a step and its record stand or
fall together, and a second process waits for the first. MariaDB and MySQL commit each change by
itself: there every step can be run again, all steps run under a named lock, and the record comes
last. A released step is never edited; a change of the schema is a new step at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, func, inspect, select, text, union
from sqlalchemy.schema import CreateSchema

from deltamem_agents.checkpoint import fact_schema
from deltamem_agents.checkpoint.context import PLAIN
from deltamem_agents.checkpoint.fact_tables import FactTables, fact_tables
from deltamem_agents.checkpoint.failures import DAMAGED
from deltamem_agents.checkpoint.guard import write_alone
from deltamem_agents.checkpoint.keys import add_key
from deltamem_agents.checkpoint.rows import text as as_text
from deltamem_agents.checkpoint.tables import Tables
from deltamem_agents.errors import CorruptStorageError, SchemaVersionError, StorageBusyError

LOCK_NAME = "deltamem_migrations"
LOCK_NUMBER = 0x64656C7461  # "delta"
LOCK_SECONDS = 60

Step = Callable[[Connection, Tables], None]


def _create_checkpoint_tables(connection: Connection, tables: Tables) -> None:
    _create_schema(connection, tables.schema)
    _refuse_foreign(connection, tables)
    tables.metadata.create_all(connection)


def _create_schema(connection: Connection, schema: str | None) -> None:
    # Not IF NOT EXISTS: for that, too, PostgreSQL wants the right to make one.
    if schema is None or connection.dialect.name == "sqlite":
        return
    if schema not in inspect(connection).get_schema_names():
        connection.execute(CreateSchema(schema))


def _facts(step: Callable[[Connection, FactTables], None]) -> Step:
    return lambda connection, tables: step(connection, fact_tables(tables.schema, tables.prefix))


def _note_tenants(connection: Connection, tables: Tables) -> None:
    held = (select(t.c.tenant, t.c.thread_id) for t in (tables.checkpoints, tables.writes))
    threads = ((as_text(row[0]), as_text(row[1])) for row in connection.execute(union(*held)).all())
    fact_schema.note_tenants(connection, fact_tables(tables.schema, tables.prefix), threads)


def _note_plain_tenants(connection: Connection, tables: Tables) -> None:
    """A tenant of facts alone, whose name nobody can tell, gets its row when it is opened."""
    table = tables.tenants
    held = (select(t.c.tenant) for t in (tables.checkpoints, tables.writes, tables.blobs))
    noted = {as_text(name) for name in connection.scalars(select(table.c.tenant))}
    for name in {as_text(name) for name in connection.scalars(union(*held))} - noted:
        add_key(connection, tables, name, PLAIN)


STEPS: tuple[tuple[str, Step], ...] = (
    ("checkpoints, channels, blobs, writes, memory_states", _create_checkpoint_tables),
    ("facts", _facts(fact_schema.create_fact_tables)),
    ("facts are indexed at once", _facts(fact_schema.index_facts_at_once)),
    ("facts are hashed without their scope", _facts(fact_schema.note_outdated)),
    ("tombstones know their tenant", _note_tenants),
    ("words of facts carry their scope", _facts(fact_schema.note_outdated)),
    ("plain tenants have a row", _note_plain_tenants),
)


def current_version(connection: Connection, tables: Tables) -> int:
    """The last step that was applied; 0 for an empty database."""
    if not inspect(connection).has_table(tables.migrations.name, schema=tables.schema):
        return 0
    return connection.scalar(select(func.max(tables.migrations.c.version))) or 0


def migrate(connection: Connection, tables: Tables) -> int:
    """Bring the schema up to date inside the caller's transaction; how many steps were taken.

    Raises:
        SchemaVersionError: the database is newer than this package, or its tables are another's.
        CorruptStorageError: the record of the steps is damaged.
    """
    version = _checked(current_version(connection, tables))
    if version == len(STEPS):
        return 0
    with lock(connection):
        version = _checked(current_version(connection, tables))
        for number, (name, step) in enumerate(STEPS[version:], start=version + 1):
            step(connection, tables)
            connection.execute(
                tables.migrations.insert().values(
                    version=number, name=name, applied=int(time.time() * 1000)
                )
            )
    return len(STEPS) - version


def _checked(version: object) -> int:
    if not isinstance(version, int) or version < 0:
        raise CorruptStorageError("the schema has a version number", got=version, remedy=DAMAGED)
    if version > len(STEPS):
        raise SchemaVersionError(
            f"this package knows the schema up to version {len(STEPS)}",
            got=version,
            remedy="Update deltamem-agents; nothing was changed.",
        )
    return version


def lock(connection: Connection) -> AbstractContextManager[None]:
    """Keeps other processes from changing the schema meanwhile.

    On SQLite whoever changes it is the only writer, also on an engine that was given.

    On MariaDB and MySQL what was done is committed before the lock goes; elsewhere the lock goes
    with the transaction.

    Raises:
        StorageBusyError: another process has held it all the time.
    """
    name = connection.dialect.name
    write_alone(connection)
    if name == "postgresql":
        # Held until the transaction ends.
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK_NUMBER})
    return _named_lock(connection) if name in ("mysql", "mariadb") else _no_lock()


@contextmanager
def _no_lock() -> Iterator[None]:
    # SQLite's BEGIN IMMEDIATE and PostgreSQL's lock end with the transaction.
    yield


@contextmanager
def _named_lock(connection: Connection) -> Iterator[None]:
    parameters = {"name": LOCK_NAME, "seconds": LOCK_SECONDS}
    if connection.scalar(text("SELECT GET_LOCK(:name, :seconds)"), parameters) != 1:
        raise StorageBusyError(
            "one process at a time changes the schema",
            got=LOCK_NAME,
            remedy="Call again when the other process has changed it.",
        )
    try:
        yield
        # Recorded before the lock goes, or a second process would start over.
        connection.commit()
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": LOCK_NAME})


def _refuse_foreign(connection: Connection, tables: Tables) -> None:
    """A table of ours that is there before the first step is somebody else's."""
    inspector = inspect(connection)
    for table in tables.metadata.sorted_tables:
        if not inspector.has_table(table.name, schema=tables.schema):
            continue
        held = {column["name"] for column in inspector.get_columns(table.name, tables.schema)}
        if not held >= {column.name for column in table.columns}:
            raise SchemaVersionError(
                f"the table {table.name!r} is one of this package",
                got=sorted(held),
                remedy='Another saver uses this database. Pass prefix="deltamem_", or import its '
                "checkpoints into a database of their own.",
            )
