"""One transaction per operation, run again where another one was in the way.

Each looks whether the tenant's key is still the one that its shelf seals with: a write by an old
key would leave what nobody can open, and a search without one finds nothing once there is one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from deltamem_agents.checkpoint.engines import WRITE
from deltamem_agents.checkpoint.failures import is_lost, may_retry, translate
from deltamem_agents.checkpoint.guard import check_key_on

if TYPE_CHECKING:
    from deltamem_agents.router.shelf import Shelf

T = TypeVar("T")
ATTEMPTS = 6


def read(shelf: Shelf, work: Callable[[Connection], T]) -> T:
    """Runs an operation that only reads.

    Raises:
        EncryptionError: the tenant's key is another one by now.
        ConnectionLostError: the connection broke.
        StorageError: the database failed.
    """
    try:
        with shelf.engine.begin() as connection:
            result = work(connection)
            _check(shelf, connection, hold=False)  # last: the key and what it seals change at once
            return result
    except DBAPIError as error:
        raise _translated(error, shelf) from error


def write(shelf: Shelf, work: Callable[[Connection], T]) -> T:
    """Runs an operation that writes, whole or not at all.

    Lost against another transaction (a deadlock, or the same message recorded by someone else in
    between), it is run again from the start. Only what can be run again may commit in between.

    Raises:
        EncryptionError: the tenant's key is another one by now; nothing was kept.
        ConnectionLostError: the connection broke; unless it was while committing, nothing was kept.
        StorageError: the database failed; nothing was kept.
    """
    engine = shelf.engine
    for attempt in range(ATTEMPTS):
        try:
            # On SQLite this takes the write lock first: a transaction that reads before it
            # writes would otherwise fail where another one wrote in between.
            opened = engine.connect().execution_options(**{WRITE: True})
            with opened as connection:  # closed without a commit, it is rolled back
                _check(shelf, connection)
                result = work(connection)
                connection.commit()
                return result
        except DBAPIError as error:
            again = isinstance(error, IntegrityError) or may_retry(error, shelf.family)
            if not again or attempt == ATTEMPTS - 1:
                raise _translated(error, shelf) from error
            time.sleep(0.005 * 2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")


def _translated(error: DBAPIError, shelf: Shelf) -> BaseException:
    dialect = shelf.engine.dialect
    return translate(error, dialect, lost=is_lost(error, dialect, None))


def _check(shelf: Shelf, connection: Connection, *, hold: bool = True) -> None:
    if shelf.context is not None:
        check_key_on(connection, shelf.context, hold=hold)
