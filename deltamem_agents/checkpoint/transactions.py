"""One operation in one transaction, on a connection of whatever sort."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deltamem_agents.checkpoint import failures
from deltamem_agents.checkpoint.session import Session

T = TypeVar("T")
Operation = Callable[[Session], T]

RETRIES = 8


@dataclass(frozen=True)
class Job(Generic[T]):
    """An operation and how it is to be run.

    Attributes:
        operation: what to do.
        write: whether it changes something.
        core: whether it needs SQLAlchemy's connection.
        quick: tried first where a connection commits by itself, so it is one statement; None
            from it means that it did nothing.
    """

    operation: Operation[T]
    write: bool = False
    core: bool = False
    quick: Operation[T | None] | None = None


class Again(Exception):
    """The transaction lost against another one."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def pause(attempt: int) -> float:
    """Seconds before the next try."""
    return float(0.002 * 2**attempt)


def run_explicit(session: Session, job: Job[T], lost: Callable[[], None]) -> T:
    """Run on a connection that commits by itself; a read needs no transaction."""
    try:
        result = None if job.quick is None else job.quick(session)
        if result is None:
            if not job.write:
                return job.operation(session)
            session.begin()
            result = job.operation(session)
            session.commit()
    except BaseException as error:
        failure = _ended(error, session, session.rollback, lost)
        if failure is error:
            raise
        raise failure from error
    return result


def run_managed(session: Session, job: Job[T], lost: Callable[[], None]) -> T:
    """Run and commit on a connection whose transactions SQLAlchemy (or the driver) begins."""
    try:
        result = job.operation(session)
        session.raw.commit()
    except BaseException as error:
        failure = _ended(error, session, session.raw.rollback, lost)
        if failure is error:
            raise
        raise failure from error
    session.close()
    return result


def _ended(
    error: BaseException, session: Session, rollback: Callable[[], Any], lost: Callable[[], None]
) -> BaseException:
    """Roll back after an error; what to raise instead of it."""
    family, dialect = session.statements.family, session.statements.dialect
    broken = failures.is_lost(error, dialect, getattr(session.raw, "dbapi_connection", None))
    try:
        if broken:
            lost()
            session.raw.invalidate()
        else:
            rollback()
    except Exception:
        with contextlib.suppress(Exception):
            session.raw.invalidate()
    if not broken and failures.may_retry(error, family):
        return Again(error)
    return failures.translate(error, dialect, lost=broken)
