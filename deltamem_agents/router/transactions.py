"""One transaction per operation, run again where another one was in the way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from deltamem_agents.checkpoint.engines import WRITE
from deltamem_agents.checkpoint.failures import may_retry, translate

T = TypeVar("T")
ATTEMPTS = 6


def read(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Runs an operation that only reads.

    Raises:
        StorageError: the database failed.
    """
    try:
        with engine.begin() as connection:
            return work(connection)
    except DBAPIError as error:
        raise translate(error, engine.dialect, lost=False) from error


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Runs an operation that writes, whole or not at all.

    Lost against another transaction (a deadlock, or the same message recorded by someone else in
    between), it is run again from the start. Only what can be run again may commit in between.

    Raises:
        StorageError: the database failed; nothing was kept.
    """
    family = "postgresql" if engine.dialect.name == "postgresql" else "mysql"
    for attempt in range(ATTEMPTS):
        try:
            # On SQLite this takes the write lock first: a transaction that reads before it
            # writes would otherwise fail where another one wrote in between.
            opened = engine.connect().execution_options(**{WRITE: True})
            with opened as connection:  # closed without a commit, it is rolled back
                result = work(connection)
                connection.commit()
                return result
        except DBAPIError as error:
            again = isinstance(error, IntegrityError) or may_retry(error, family)
            if not again or attempt == ATTEMPTS - 1:
                raise translate(error, engine.dialect, lost=False) from error
            time.sleep(0.005 * 2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")
