"""A tenant's key may change while others write: what they sealed with the old one is not stored.

Each write looks at the tenant's row of `tenants` in its own transaction. What keeps the row as it
was until that transaction ends differs: SQLite has one writer at a time; PostgreSQL's change of key
locks the tables; on MariaDB and MySQL the row is locked, or, where there is none to lock (a plain
tenant), looked for after the rows are written, for whose locks the change of key waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from deltamem_agents.errors import EncryptionError

if TYPE_CHECKING:
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
    if (bytes(found[0][0]) if found else None) != context.key.sealed:
        raise EncryptionError(
            f"the contents of tenant {context.tenant!r} are sealed with the key that it has now",
            got="a key from before it was changed",
            remedy="Open the database with the new key; nothing was stored.",
        )


def guarded(context: Context, operation: Operation[T]) -> Operation[T]:
    """The operation, if the tenant's key is still the context's."""

    def run(session: Session) -> T:
        last = session.statements.family == "mysql" and context.key.sealed is None
        if not last:
            check_key(session, context)
        result = operation(session)
        if last:
            check_key(session, context)
        return result

    return run
