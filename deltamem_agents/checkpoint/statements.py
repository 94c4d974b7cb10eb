"""Every statement of the hot paths, built once with SQLAlchemy Core and compiled per database.

A `Statement` is Core's SQL for one dialect with the order of its parameters; it is run on the
driver's own cursor (see `session.py`), which spares Core's work per execution. Keys and values are
always bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Dialect,
    Insert,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.base import Executable

from deltamem_agents.checkpoint import queries
from deltamem_agents.checkpoint.at_once import AtOnce
from deltamem_agents.checkpoint.tables import Tables

Parameters = Mapping[str, Any]
_ARRAY = re.compile(r"\)s(::[A-Z ]+\[\])")


class Statement:
    """SQL for one dialect.

    Attributes:
        sql: the text.
    """

    def __init__(self, element: Executable, dialect: Dialect) -> None:
        compiled = element.compile(dialect=dialect)  # type: ignore[attr-defined]
        sql: str = compiled.string
        if dialect.driver == "psycopg":
            # Arrays travel as they are; psycopg would write those of bytes out in hexadecimal.
            sql = _ARRAY.sub(r")b\1", sql)
        self.sql = sql
        self._fixed: dict[str, Any] = {
            name: value for name, value in compiled.params.items() if value is not None
        }
        order: Sequence[str] | None = compiled.positiontup
        self._pick: Callable[[Parameters], Any] | None = None
        if order is not None:
            self._pick = itemgetter(*order) if len(order) > 1 else _one(order)

    def bind(self, parameters: Parameters) -> Any:
        """What the driver's cursor takes: a tuple for positional styles, else the mapping."""
        if self._fixed:
            parameters = {**self._fixed, **parameters}
        return parameters if self._pick is None else self._pick(parameters)


def _one(order: Sequence[str]) -> Callable[[Parameters], Any]:
    if not order:
        return lambda parameters: ()
    return lambda parameters: (parameters[order[0]],)


class Statements:
    """All statements for one set of tables and one dialect."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self.tables, self.dialect = tables, dialect
        self.family = "mysql" if dialect.name in ("mysql", "mariadb") else dialect.name
        self.get = cache(lambda latest: self._compile(queries.get(tables, latest)))
        self.page = cache(
            lambda **wanted: self._compile(queries.page(tables, self.family, **wanted))
        )
        self.copy_channels = cache(self._copy_channels)
        self.at_once = AtOnce(tables, dialect) if self.family == "postgresql" else None
        self.new_checkpoint = self._compile(self._new_checkpoint())
        self.put_checkpoint = self._compile(self._put_checkpoint())
        self.put_blob = self._compile(self.ignore(tables.blobs))
        self.put_channel = self._compile(_new_row(tables.channels))
        self.put_memory = self._compile(_new_row(tables.memory_states))
        self.copy_memories = self._compile(self._copy_memories())
        self.write_once = self._compile(self.ignore(tables.writes))
        self.write_again = self._compile(self.replace(tables.writes))
        self.drop_channels = self._compile(_by_checkpoint(tables.channels))
        self.drop_memories = self._compile(_by_checkpoint(tables.memory_states))
        self.find_checkpoint = self._compile(self._find_checkpoint())
        self.versions = self._compile(self._versions())
        self.fence = self._compile(self._fence())
        self.sealed = cache(lambda hold: self._compile(self._sealed(hold)))

    def _compile(self, element: Executable) -> Statement:
        return Statement(element, self.dialect)

    # -- inserts ------------------------------------------------------------------------------

    def ignore(self, table: Table) -> Any:
        """Insert; a row that is there already stays as it is."""
        values: dict[str, Any] = {column.name: bindparam(column.name) for column in table.columns}
        if self.family == "mysql":
            first = next(iter(table.primary_key))
            return mysql.insert(table).values(values).on_duplicate_key_update({first.name: first})
        return self._insert(table).values(values).on_conflict_do_nothing()

    def replace(self, table: Table) -> Any:
        """Insert; a row that is there already takes the new values."""
        values: dict[str, Any] = {column.name: bindparam(column.name) for column in table.columns}
        keys = [column.name for column in table.primary_key]
        return self._upsert(table, values, keys)

    def _upsert(self, table: Table, values: dict[str, Any], keys: list[str]) -> Any:
        others = [name for name in values if name not in keys]
        if self.family == "mysql":
            statement = mysql.insert(table).values(values)
            new: Any = statement.inserted
            return statement.on_duplicate_key_update({name: new[name] for name in others})
        into = self._insert(table).values(values)
        return into.on_conflict_do_update(
            index_elements=keys, set_={name: into.excluded[name] for name in others}
        )

    def _insert(self, table: Table) -> Any:
        return sqlite.insert(table) if self.family == "sqlite" else postgresql.insert(table)

    def _new_checkpoint(self) -> Executable:
        """Returns the row's number (but on PostgreSQL: lastrowid).

        If it is there already, nothing is done; on MySQL that is an error.
        """
        table = self.tables.checkpoints
        values: dict[str, Any] = {
            column.name: bindparam(column.name) for column in table.columns if column.name != "id"
        }
        if self.family == "mysql":
            return insert(table).values(values)
        into = self._insert(table).values(values).on_conflict_do_nothing()
        executable: Executable = into if self.family == "sqlite" else into.returning(table.c.id)
        return executable

    def _put_checkpoint(self) -> Executable:
        """The same, but a row that is there already takes the new values (MySQL: lastrowid)."""
        table = self.tables.checkpoints
        names = [column.name for column in table.columns if column.name != "id"]
        values: dict[str, Any] = {name: bindparam(name) for name in names}
        keys = ["tenant", "thread_id", "namespace_key", "checkpoint_id"]
        if self.family == "mysql":
            statement = mysql.insert(table).values(values)
            new: Any = statement.inserted
            return statement.on_duplicate_key_update(
                {"id": func.last_insert_id(table.c.id)}
                | {name: new[name] for name in names if name not in keys}
            )
        upsert = self._upsert(table, values, keys)
        executable: Executable = upsert.returning(table.c.id)
        return executable

    def _copy_channels(self, count: int) -> Statement:
        """Take `count` channels over from the parent where their versions are the same."""
        source = self.tables.channels.alias("source")
        parent = self.tables.checkpoints.alias("parent")
        rows = (
            select(
                bindparam("checkpoint", type_=source.c.checkpoint.type),
                source.c.channel,
                source.c.version,
                source.c.kind,
                source.c.data,
                source.c.blob,
            )
            .join(parent, parent.c.id == source.c.checkpoint)
            .where(
                *queries.address(parent, "parent_id"),
                or_(
                    *(
                        and_(
                            source.c.channel == bindparam(f"channel{i}"),
                            source.c.version == bindparam(f"version{i}"),
                        )
                        for i in range(count)
                    )
                ),
            )
        )
        return self._compile(
            insert(self.tables.channels).from_select(
                ["checkpoint", "channel", "version", "kind", "data", "blob"], rows
            )
        )

    def _copy_memories(self) -> Insert:
        """The memory rows of the channels that came over from the parent."""
        source, parent = self.tables.memory_states.alias("source"), self.tables.checkpoints
        held = self.tables.channels.alias("held")
        names = [column.name for column in source.columns]
        new = {
            "checkpoint": bindparam("checkpoint", type_=source.c.checkpoint.type),
            "checkpoint_id": bindparam("checkpoint_id", type_=source.c.checkpoint_id.type),
        }
        rows = (
            select(*(new.get(name, source.c[name]) for name in names))
            .join(parent, parent.c.id == source.c.checkpoint)
            .join(held, and_(held.c.channel == source.c.channel, held.c.blob == source.c.blob))
            .where(
                held.c.checkpoint == bindparam("checkpoint"), *queries.address(parent, "parent_id")
            )
        )
        return insert(self.tables.memory_states).from_select(names, rows)

    # -- reads --------------------------------------------------------------------------------

    def _find_checkpoint(self) -> Select[Any]:
        table = self.tables.checkpoints
        return select(table.c.id).where(*queries.address(table, "checkpoint_id"))

    def _versions(self) -> Select[Any]:
        table = self.tables.channels
        return select(table.c.channel, table.c.version).where(
            table.c.checkpoint == bindparam("checkpoint")
        )

    def _fence(self) -> Select[Any]:
        table = self.tables.fences
        statement = select(table.c.token).where(
            table.c.tenant == bindparam("tenant"), table.c.thread_id == bindparam("thread_id")
        )
        return statement if self.family == "sqlite" else statement.with_for_update(read=True)

    def _sealed(self, hold: bool) -> Select[Any]:
        """Held, the row stays as it is until the transaction ends; see `guard`."""
        table = self.tables.tenants
        statement = select(table.c.wrapped_key).where(table.c.tenant == bindparam("tenant"))
        held = hold and self.family != "sqlite"
        return statement.with_for_update(read=True) if held else statement


def _new_row(table: Table) -> Insert:
    return insert(table).values({column.name: bindparam(column.name) for column in table.columns})


def _by_checkpoint(table: Table) -> Executable:
    return delete(table).where(table.c.checkpoint == bindparam("checkpoint"))
