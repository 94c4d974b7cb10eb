"""PostgreSQL: a whole put, or a task's writes, as one statement and so one round trip.

Rows travel as arrays (one a column) and are unnested; the parts are CTEs of one statement, which
PostgreSQL carries out whole or not at all. A put whose checkpoint is there already, or whose parent
does not hold the unchanged channels, inserts nothing and returns no row; nor does anything of a
tenant whose key was changed (see `guard`). The caller then takes the long way through a
transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Dialect,
    Select,
    Table,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.base import Executable

from deltamem_agents.checkpoint.tables import Tables

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.statements import Statement

_CHANNEL = ("channel", "version", "kind", "data", "blob")


class AtOnce:
    """The statements for one set of tables."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self.tables, self.dialect = tables, dialect
        self.put = cache(self._put)
        self.writes = cache(self._writes)

    def _compile(self, element: Executable) -> Statement:
        from deltamem_agents.checkpoint.statements import Statement

        return Statement(element, self.dialect)

    def _rows(self, table: Table, names: Sequence[str]) -> Any:
        """Arrays as a table; parameters are called `<table's name>_<column>`."""
        arrays = [
            bindparam(parameter(table, name), type_=postgresql.ARRAY(_array_type(table, name)))
            for name in names
        ]
        return func.unnest(*arrays).table_valued(*names, name=f"new_{table.name}").render_derived()

    def _put(
        self,
        unchanged: bool,
        changed: bool,
        blobs: bool,
        memories: bool,
        kept_memories: bool,
    ) -> Statement:
        tables = self.tables
        kept = self._kept() if unchanged else None
        head = self._head(kept).cte("head")
        parts: list[Any] = []
        if blobs:
            parts.append(self._blobs(exists(select(head.c.id))).cte("put_blobs"))
        sources: list[Select[Any]] = []
        if changed:
            new = self._rows(tables.channels, _CHANNEL)
            sources.append(
                select(head.c.id, *(new.c[name] for name in _CHANNEL)).select_from(
                    head.join(new, literal_column("true"))
                )
            )
        if kept is not None:
            sources.append(
                select(head.c.id, *(kept.c[name] for name in _CHANNEL)).select_from(
                    head.join(kept, literal_column("true"))
                )
            )
        if sources:
            rows: Any = union_all(*sources) if len(sources) > 1 else sources[0]
            parts.append(
                postgresql.insert(tables.channels)
                .from_select(["checkpoint", *_CHANNEL], rows)
                .cte("put_channels")
            )
        if memories:
            parts.append(self._memories(head).cte("put_memories"))
        if kept_memories and kept is not None:
            parts.append(self._kept_memories(head, kept).cte("keep_memories"))
        return self._compile(select(head.c.id).add_cte(*parts))

    def _current(self) -> Any:
        """Whether the tenant's key is still the writer's.

        A change of key locks the tables that are written here; who has waited for it sees it,
        because a statement looks at the rows after it got its locks. Not so where a server's
        default is a stricter isolation: there it looks first, and this is never said.
        """
        table = self.tables.tenants
        sealed = bindparam("sealed", type_=table.c.wrapped_key.type)
        own = (table.c.tenant == bindparam("tenant"), table.c.wrapped_key == sealed)
        isolation = func.current_setting(literal_column("'transaction_isolation'"))
        committed = isolation == literal_column("'read committed'")
        return exists(select(table.c.tenant).where(*own, committed))

    def _head(self, kept: Any) -> Any:
        table = self.tables.checkpoints
        columns = [column for column in table.columns if column.name != "id"]
        row = select(*(bindparam(column.name, type_=column.type) for column in columns))
        row = row.where(self._current())
        if kept is not None:
            row = row.where(
                select(func.count()).select_from(kept).scalar_subquery() == bindparam("expected")
            )
        return (
            postgresql.insert(table)
            .from_select([column.name for column in columns], row)
            .on_conflict_do_nothing()
            .returning(table.c.id)
        )

    def _parent(self) -> Any:
        table = self.tables.checkpoints
        return and_(
            table.c.tenant == bindparam("tenant"),
            table.c.thread_id == bindparam("thread_id"),
            table.c.namespace_key == bindparam("namespace_key"),
            table.c.checkpoint_id == bindparam("parent_id"),
        )

    def _kept(self) -> Any:
        """The parent's channels that are unchanged, at the versions that are wanted."""
        table, heads = self.tables.channels, self.tables.checkpoints
        wanted = (
            func.unnest(
                bindparam("kept_channel", type_=postgresql.ARRAY(_array_type(table, "channel"))),
                bindparam("kept_version", type_=postgresql.ARRAY(table.c.version.type)),
            )
            .table_valued("channel", "version", name="wanted")
            .render_derived()
        )
        return (
            select(*(table.c[name] for name in _CHANNEL))
            .join(heads, heads.c.id == table.c.checkpoint)
            .join(
                wanted,
                and_(wanted.c.channel == table.c.channel, wanted.c.version == table.c.version),
            )
            .where(self._parent())
        ).cte("kept")

    def _blobs(self, condition: Any) -> Any:
        table = self.tables.blobs
        names = [column.name for column in table.columns]
        new = self._rows(table, names)
        rows = select(*(new.c[name] for name in names)).where(condition)
        return postgresql.insert(table).from_select(names, rows).on_conflict_do_nothing()

    def _memories(self, head: Any) -> Any:
        table = self.tables.memory_states
        names = [column.name for column in table.columns if column.name != "checkpoint"]
        new = self._rows(table, names)
        rows = select(head.c.id, *(new.c[name] for name in names)).select_from(
            head.join(new, literal_column("true"))
        )
        return postgresql.insert(table).from_select(["checkpoint", *names], rows)

    def _kept_memories(self, head: Any, kept: Any) -> Any:
        table, heads = self.tables.memory_states, self.tables.checkpoints
        names = [column.name for column in table.columns]
        new = {
            "checkpoint": head.c.id,
            "checkpoint_id": bindparam("checkpoint_id", type_=table.c.checkpoint_id.type),
        }
        rows = (
            select(*(new.get(name, table.c[name]) for name in names))
            .select_from(
                table.join(heads, heads.c.id == table.c.checkpoint)
                .join(kept, and_(kept.c.channel == table.c.channel, kept.c.blob == table.c.blob))
                .join(head, literal_column("true"))
            )
            .where(self._parent())
        )
        return postgresql.insert(table).from_select(names, rows)

    def _writes(self, again: bool, blobs: bool) -> Statement:
        table, current = self.tables.writes, self._current()
        names = [column.name for column in table.columns]
        new = self._rows(table, names)
        rows = select(*(new.c[name] for name in names)).where(current)
        into = postgresql.insert(table).from_select(names, rows)
        if again:
            keys = [column.name for column in table.primary_key]
            into = into.on_conflict_do_update(
                index_elements=keys,
                set_={name: into.excluded[name] for name in names if name not in keys},
            )
        else:
            into = into.on_conflict_do_nothing()
        parts = [self._blobs(current).cte("put_blobs")] if blobs else []
        stored: Select[Any] = select(literal_column("1")).where(current)
        return self._compile(stored.add_cte(*parts, into.cte("put_writes")))


def parameter(table: Table, name: str) -> str:
    """The parameter that carries a column's array."""
    return f"{table.name}_{name}"


def arrays(table: Table, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Rows of a table as the arrays of its columns."""
    if not rows:
        return {}
    return {parameter(table, name): [row[name] for row in rows] for name in rows[0]}


def _array_type(table: Table, name: str) -> Any:
    # Without the collation, which belongs to columns and not to the elements of arrays.
    kind = table.c[name].type
    return postgresql.TEXT() if kind.python_type is str else kind
