"""Every statement of the hot paths, built once with SQLAlchemy Core and compiled per database.

A `Statement` is Core's SQL for one dialect with the order of its parameters; it is run on the
driver's own cursor (see `session.py`), which spares Core's work per execution. Keys and values are
always bound.
"""

from __future__ import annotations

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
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.elements import ColumnElement

from deltamem_agents.checkpoint.at_once import AtOnce
from deltamem_agents.checkpoint.tables import Tables

Parameters = Mapping[str, Any]


class Statement:
    """SQL for one dialect.

    Attributes:
        sql: the text.
    """

    def __init__(self, element: Executable, dialect: Dialect) -> None:
        compiled = element.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.sql: str = compiled.string
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
        self.get = cache(self._get)
        self.page = cache(self._page)
        self.copy_channels = cache(self._copy_channels)
        self.at_once = AtOnce(tables, dialect) if self.family == "postgresql" else None
        if self.family != "mysql":
            self.new_checkpoint = self._compile(self._new_checkpoint())
        self.put_checkpoint = self._compile(self._put_checkpoint())
        self.put_blob = self._compile(self.ignore(tables.blobs))
        self.put_channel = self._compile(self.replace(tables.channels))
        self.put_memory = self._compile(self.replace(tables.memory_states))
        self.copy_memories = self._compile(self._copy_memories())
        self.write_once = self._compile(self.ignore(tables.writes))
        self.write_again = self._compile(self.replace(tables.writes))
        self.drop_channels = self._compile(_by_checkpoint(tables.channels))
        self.drop_memories = self._compile(_by_checkpoint(tables.memory_states))
        self.find_checkpoint = self._compile(self._find_checkpoint())
        self.versions = self._compile(self._versions())
        self.fence = self._compile(self._fence())

    def _compile(self, element: Executable) -> Statement:
        return Statement(element, self.dialect)

    # -- inserts ------------------------------------------------------------------------------

    def ignore(self, table: Table) -> Executable:
        """Insert; a row that is there already stays as it is."""
        values = {column.name: bindparam(column.name) for column in table.columns}
        if self.family == "mysql":
            first = next(iter(table.primary_key))
            return mysql.insert(table).values(values).on_duplicate_key_update({first.name: first})
        return self._insert(table).values(values).on_conflict_do_nothing()

    def replace(self, table: Table) -> Executable:
        """Insert; a row that is there already takes the new values."""
        values = {column.name: bindparam(column.name) for column in table.columns}
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
        """Returns the row's number, or nothing if it is there already."""
        table = self.tables.checkpoints
        values = {column.name: bindparam(column.name) for column in table.columns
                  if column.name != "id"}
        executable: Executable = (
            self._insert(table).values(values).on_conflict_do_nothing().returning(table.c.id))
        return executable

    def _put_checkpoint(self) -> Executable:
        """The same, but a row that is there already takes the new values (MySQL: lastrowid)."""
        table = self.tables.checkpoints
        names = [column.name for column in table.columns if column.name != "id"]
        values = {name: bindparam(name) for name in names}
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
                *self._address(parent, "parent_id"),
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
                held.c.checkpoint == bindparam("checkpoint"), *self._address(parent, "parent_id")
            )
        )
        return insert(self.tables.memory_states).from_select(names, rows)

    # -- reads --------------------------------------------------------------------------------

    def _address(self, table: Any, checkpoint: str | None) -> list[ColumnElement[bool]]:
        where = [
            table.c.tenant == bindparam("tenant"),
            table.c.thread_id == bindparam("thread_id"),
            table.c.namespace_key == bindparam("namespace_key"),
        ]
        if checkpoint:
            where.append(table.c.checkpoint_id == bindparam(checkpoint))
        return where

    def _find_checkpoint(self) -> Select[Any]:
        table = self.tables.checkpoints
        return select(table.c.id).where(*self._address(table, "checkpoint_id"))

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

    def _get(self, latest: bool) -> Statement:
        """One checkpoint with its channels and writes: by id, or the newest of a namespace."""
        table = self.tables.checkpoints
        rows = select(table).where(
            *self._address(table, None if latest else "checkpoint_id"), table.c.hidden == 0
        )
        if latest:
            rows = rows.order_by(table.c.checkpoint_id.desc()).limit(1)
        return self._compile(self.sections(rows))

    def _page(
        self,
        thread: bool,
        namespace: bool,
        checkpoint: bool,
        before: bool,
        after: bool,
        terms: int,
    ) -> Statement:
        """One page of a listing, newest first; `after` continues below the last row seen."""
        table = self.tables.checkpoints
        where = [table.c.tenant == bindparam("tenant"), table.c.hidden == 0]
        if thread:
            where.append(table.c.thread_id == bindparam("thread_id"))
        if namespace:
            where.append(table.c.namespace_key == bindparam("namespace_key"))
        if checkpoint:
            where.append(table.c.checkpoint_id == bindparam("checkpoint_id"))
        if before:
            where.append(table.c.checkpoint_id < bindparam("before"))
        if after:
            where.append(table.c.checkpoint_id <= bindparam("last"))
            where.append(
                or_(table.c.checkpoint_id < bindparam("last"), table.c.id < bindparam("last_row"))
            )
        where += [
            self.has_term(table.c.terms, bindparam(f"term{i}", type_=table.c.terms.type))
            for i in range(terms)
        ]
        rows = (
            select(table)
            .where(*where)
            .order_by(table.c.checkpoint_id.desc(), table.c.id.desc())
            .limit(bindparam("size"))
        )
        return self._compile(self.sections(rows))

    def has_term(
        self, column: ColumnElement[bytes], wanted: ColumnElement[bytes]
    ) -> ColumnElement[bool]:
        """Whether the terms of a checkpoint's metadata hold this one (or seem to)."""
        if self.family == "sqlite":
            return func.instr(column, wanted) > 0
        if self.family == "mysql":
            return func.locate(wanted, column) > 0
        # With the schema's name it is an ordinary function, where "position" alone is syntax.
        return func.pg_catalog.position(column, wanted) > 0

    def sections(self, rows: Select[Any]) -> Executable:
        """The chosen checkpoints and all that hangs on them, in one statement.

        Rows: section (0 checkpoint, 1 channel, 2 write), checkpoint's number, five texts, a
        number, kind, bytes, hash of the blob; see `rows.py`.
        """
        chosen = rows.cte("chosen")
        channels, writes = self.tables.channels, self.tables.writes
        blobs = self.tables.blobs
        heads = select(
            literal_column("0").label("section"),
            chosen.c.id.label("row"),
            chosen.c.checkpoint_id.label("one"),
            chosen.c.thread_id.label("two"),
            chosen.c.namespace.label("three"),
            chosen.c.parent_id.label("four"),
            chosen.c.metadata.label("five"),
            chosen.c.channel_count.label("number"),
            chosen.c.kind.label("kind"),
            chosen.c.body.label("data"),
            null().label("hash"),
        )
        held = select(
            literal_column("1"),
            chosen.c.id,
            channels.c.channel,
            null(),
            null(),
            null(),
            null(),
            literal_column("0"),
            func.coalesce(channels.c.kind, blobs.c.kind),
            func.coalesce(channels.c.data, blobs.c.data),
            channels.c.blob,
        ).select_from(
            chosen.join(channels, channels.c.checkpoint == chosen.c.id).outerjoin(
                blobs, blobs.c.hash == channels.c.blob
            )
        )
        pending = select(
            literal_column("2"),
            chosen.c.id,
            writes.c.task_id,
            writes.c.channel,
            writes.c.task_path,
            null(),
            null(),
            writes.c.idx,
            func.coalesce(writes.c.kind, blobs.c.kind),
            func.coalesce(writes.c.data, blobs.c.data),
            writes.c.blob,
        ).select_from(
            chosen.join(
                writes,
                and_(
                    writes.c.tenant == chosen.c.tenant,
                    writes.c.thread_id == chosen.c.thread_id,
                    writes.c.namespace_key == chosen.c.namespace_key,
                    writes.c.checkpoint_id == chosen.c.checkpoint_id,
                ),
            ).outerjoin(blobs, blobs.c.hash == writes.c.blob)
        )
        return union_all(heads, held, pending)


def _by_checkpoint(table: Table) -> Executable:
    return delete(table).where(table.c.checkpoint == bindparam("checkpoint"))
