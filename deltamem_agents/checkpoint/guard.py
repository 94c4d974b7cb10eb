"""A tenant's key may change while others write: what they sealed with the old one is not stored.

Each write looks at the tenant's row of `tenants` in its own transaction. What keeps the row as it
was until that transaction ends differs: SQLite has one writer at a time; PostgreSQL's change of key
locks the tables; on MariaDB and MySQL the row is locked, or, where there is none to lock (a plain
tenant), looked for after the rows are written, for whose locks the change of key waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import select

from deltamem_agents.errors import EncryptionError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.transactions import Operation

T = TypeVar("T")


def check_key(session: Session, context: Context) -> None:
    """Refuse where the tenant's key is no longer the context's.

    Raises:
        EncryptionError: it was changed.
    """
    found = session.rows(session.statements.sealed, {"tenant": context.tenant})
    _compare(found[0][0] if found else None, context)


def check_key_on(connection: Connection, context: Context, *, hold: bool = True) -> None:
    """`check_key` for stores beside the saver, whose statements are SQLAlchemy's.

    Args:
        connection: inside the operation's transaction.
        context: what the operation seals with.
        hold: keep the row as it is until the transaction ends; False where it only reads.

    Raises:
        EncryptionError: it was changed.
    """
    table = context.tables.tenants
    statement = select(table.c.wrapped_key).where(table.c.tenant == context.tenant)
    if hold:  # SQLite knows no such clause, and SQLAlchemy leaves it out there
        statement = statement.with_for_update(read=True)
    _compare(connection.scalar(statement), context)


def _compare(sealed: bytes | None, context: Context) -> None:
    if (None if sealed is None else bytes(sealed)) != context.key.sealed:
        raise EncryptionError(
            f"the contents of tenant {context.tenant!r} are sealed with the key that it has now",
            got="a key from before it was changed",
            remedy="Open the database with the new key; nothing was stored.",
        )


def checked_last(family: str, context: Context) -> bool:
    """Whether a write looks at the key after its rows instead of before them."""
    return family == "mysql" and context.key.sealed is None


def guarded(context: Context, operation: Operation[T]) -> Operation[T]:
    """The operation, if the tenant's key is still the context's."""

    def run(session: Session) -> T:
        last = checked_last(session.statements.family, context)
        if not last:
            check_key(session, context)
        result = operation(session)
        if last:
            check_key(session, context)
        return result

    return run
