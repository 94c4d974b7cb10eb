"""A tenant's key may change while others write: what they sealed with the old one is not stored.

Each write first looks at the tenant's row of `tenants` in its own transaction; a plain tenant has
one too. SQLite has one writer at a time, and who looks is that one; elsewhere the row is locked in
share mode: it stays as it is until that transaction ends, and a change of key waits for those who
hold it. On PostgreSQL a put is one statement that locks no row: there the change of key locks the
tables too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import select

from deltamem_agents.errors import EncryptionError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deltamem_agents.checkpoint.context import Context
    from deltamem_agents.checkpoint.session import Session
    from deltamem_agents.checkpoint.transactions import Operation

T = TypeVar("T")


def check_key(session: Session, context: Context, *, hold: bool = True) -> None:
    """Refuse where the tenant's key is no longer the context's.

    Args:
        session: of the operation.
        context: what the operation seals with.
        hold: keep the row as it is until the transaction ends; False where it only reads.

    Raises:
        EncryptionError: it was changed.
    """
    if hold and session.statements.family == "sqlite" and not _begun(session.raw):
        session.begin()
    statement = session.statements.sealed(hold)
    found = session.rows(statement, {"tenant": context.tenant})
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
    if hold:
        write_alone(connection)
        # SQLite knows no such clause, and SQLAlchemy leaves it out there
        statement = statement.with_for_update(read=True)
    _compare(connection.scalar(statement), context)


def write_alone(connection: Connection) -> None:
    """On SQLite, be the only writer from now on; nothing on the servers.

    An engine of ours has begun so. One that was given begins with the first change, if nobody
    told it otherwise, and what was read before that may be another's by then.
    """
    if connection.dialect.name != "sqlite":
        return
    if not connection.in_transaction():
        connection.begin()  # by the engine's own events, if it has any
    if not _begun(connection.connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begun(raw: Any) -> bool:
    begun: bool = raw.driver_connection.in_transaction
    return begun


def _compare(sealed: bytes | None, context: Context) -> None:
    if sealed is None or bytes(sealed) != context.key.sealed:
        raise refusal(context)


def refusal(context: Context) -> EncryptionError:
    """What is raised where the tenant's key is another one by now."""
    return EncryptionError(
        f"the contents of tenant {context.tenant!r} are sealed with the key that it has now",
        got="a key from before it was changed",
        remedy="Open the database with the new key; nothing was stored.",
    )


def guarded(context: Context, operation: Operation[T]) -> Operation[T]:
    """The operation, if the tenant's key is still the context's."""

    def run(session: Session) -> T:
        check_key(session, context)
        return operation(session)

    return run
