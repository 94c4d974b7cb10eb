"""The two transports: an operation is written once, and run from a thread or from a coroutine.

An operation is a function of a `Session`. The sync methods run it on a pooled connection; the
async methods run the same function either in a worker thread (SQLite and engines that were given)
or on SQLAlchemy's adapted connection of an async driver. No lock is held between operations, and
none across the yields of a listing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from deltamem_agents.checkpoint import engines, failures
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.statements import Statements
from deltamem_agents.checkpoint.tables import Tables
from deltamem_agents.errors import ConfigError, DeltaMemError, StorageError

T = TypeVar("T")
Operation = Callable[[Session], T]

RETRIES = 8
IDLE_SECONDS = 5.0  # a connection that rested longer is asked whether it still lives
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


class Database:
    """Engines, connections, transactions, retries and errors of one saver (and its clones)."""

    def __init__(
        self,
        source: str | URL | Path | Engine | AsyncEngine,
        tables: Tables,
        *,
        synchronous: str,
        busy_timeout: float,
        pool_size: int,
    ) -> None:
        if synchronous.upper() not in _SYNCHRONOUS:
            raise ConfigError(f"synchronous is one of {_SYNCHRONOUS}", got=synchronous)
        self._options: dict[str, Any] = {
            "synchronous": synchronous.upper(),
            "busy_timeout": busy_timeout,
            "pool_size": pool_size,
        }
        self.given: Engine | AsyncEngine | None = None
        if isinstance(source, Engine | AsyncEngine):
            self.given, self.url = source, source.url
        else:
            self.url = engines.parse(source)
        self.tables = tables
        self.memory = engines.is_memory(self.url)
        self._sync = source if isinstance(source, Engine) else None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine] = (
            weakref.WeakKeyDictionary()
        )
        self._compiled: dict[str, Statements] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._guard = threading.Lock()  # of this object's own fields
        # One writer of a SQLite file at a time: waiting here is fair and short, where SQLite's
        # own waiting sleeps. Held inside one operation only.
        self._writer = threading.RLock()
        self._idle: deque[_Held] = deque()
        self.stale_before = 0.0
        self.closed = False

    # -- engines ------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The sync engine; made on first use."""
        if self._sync is None:
            with self._guard:
                if self._sync is None:
                    self._sync = engines.sync_engine(self.url, **self._options)
        return self._sync

    @property
    def hops(self) -> bool:
        """Whether async methods run the sync engine in a thread."""
        if isinstance(self.given, AsyncEngine):
            return False
        return (
            self.given is not None
            or self.memory
            or (self.url.get_backend_name() == "sqlite" and "aiosqlite" not in self.url.drivername)
        )

    def async_engine(self) -> AsyncEngine:
        """The async engine of the running event loop."""
        if isinstance(self.given, AsyncEngine):
            return self.given
        loop = asyncio.get_running_loop()
        with self._guard:
            if loop not in self._loops:
                self._loops[loop] = engines.async_engine(self.url, **self._options)
            return self._loops[loop]

    def statements(self, engine: Engine) -> Statements:
        """Compiled once per dialect and driver."""
        name = f"{engine.dialect.name}+{engine.dialect.driver}"
        if name not in self._compiled:
            self._compiled[name] = Statements(self.tables, engine.dialect)
        return self._compiled[name]

    # -- sync ---------------------------------------------------------------------------------

    def run(
        self, operation: Operation[T], *, write: bool = False, core: bool = False,
        quick: Operation[T | None] | None = None,
    ) -> T:
        """Run one operation in one transaction.

        Args:
            operation: what to do.
            write: whether it changes something.
            core: whether it needs SQLAlchemy's connection.
            quick: tried first, outside of a transaction (so it is one statement); None from it
                means that it did nothing.

        Raises:
            StorageError: or one of its kinds; nothing of the operation was kept.
        """
        self._check_open()
        engine = self.engine
        statements = self.statements(engine)
        for attempt in range(RETRIES):
            try:
                if statements.family == "sqlite" and (write or self.memory):
                    with self._writer:
                        return self._once(engine, statements, operation, write, core, quick)
                return self._once(engine, statements, operation, write, core, quick)
            except _Again as again:
                if attempt == RETRIES - 1:
                    raise failures.translate(
                        again.error, engine.dialect, lost=False) from again.error
                time.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    def _once(
        self, engine: Engine, statements: Statements, operation: Operation[T], write: bool,
        core: bool, quick: Operation[T | None] | None,
    ) -> T:
        if core or engine is self.given or self.memory:
            return self._managed(engine, statements, operation, write, core)
        held = self._hold(engine, statements)
        try:
            result = None if quick is None else quick(held.session)
            if result is None:
                result = _explicit(held.session, operation, write)
        except BaseException as error:
            failure = self.failed(error, held.session, explicit=True)
            held.session.raw.invalidate()
            if failure is error:
                raise
            raise failure from error
        self._release(held)
        return result

    def _managed(
        self, engine: Engine, statements: Statements, operation: Operation[T], write: bool,
        core: bool,
    ) -> T:
        """On a connection of SQLAlchemy's pool, in a transaction as SQLAlchemy makes it."""
        try:
            if core:
                with engine.connect().execution_options(**{engines.WRITE: write}) as connection:
                    connection.begin()
                    raw = connection.connection
                    self._prepare_given(raw)
                    return _drive(Session(raw, statements, connection), operation, self)
            raw = engine.raw_connection()
        except Exception as error:
            if isinstance(error, _Again | DeltaMemError):
                raise
            raise self._failure(error, engine, None) from error
        try:
            self._prepare_given(raw)
            session = Session(raw, statements)
            if write and statements.family == "sqlite":
                session.begin()
            return _drive(session, operation, self)
        finally:
            raw.close()

    def _prepare_given(self, raw: Any) -> None:
        """Pragmas on a connection of a SQLite engine that was given, once."""
        if self.given is None or self.url.get_backend_name() != "sqlite":
            return
        record: Any = getattr(raw, "_connection_record", None)
        if record is not None and not record.info.get("deltamem"):
            record.info["deltamem"] = True
            engines.pragmas(raw, self._options["synchronous"], given=True)

    def _hold(self, engine: Engine, statements: Statements) -> _Held:
        """One of our own idle connections, checked if it rested for long or before a failure."""
        now = time.monotonic()
        while self._idle:
            try:
                held = self._idle.pop()
            except IndexError:
                break
            if held.process != os.getpid():
                continue  # inherited by a fork: the parent's, not to be touched
            if statements.family == "sqlite":
                return held
            if now - held.used < IDLE_SECONDS and held.used > self.stale_before:
                return held
            raw = held.session.raw
            try:
                if engine.dialect.do_ping(raw.dbapi_connection):
                    return held
            except Exception:
                pass
            raw.invalidate()
        try:
            raw = engine.raw_connection()
            engines.commit_by_itself(raw, statements.family)
            return _Held(Session(raw, statements), os.getpid(), now)
        except Exception as error:
            raise self._failure(error, engine, None) from error

    def _release(self, held: _Held) -> None:
        if len(self._idle) >= self._options["pool_size"] or self.closed:
            held.session.raw.invalidate()
            return
        held.used = time.monotonic()
        self._idle.append(held)

    # -- async --------------------------------------------------------------------------------

    async def arun(
        self, operation: Operation[T], *, write: bool = False, core: bool = False,
        quick: Operation[T | None] | None = None,
    ) -> T:
        """The same from a coroutine."""
        self._check_open()
        if self.hops:
            return await self.in_thread(
                lambda: self.run(operation, write=write, core=core, quick=quick))
        engine = self.async_engine()
        statements = self.statements(engine.sync_engine)
        for attempt in range(RETRIES):
            try:
                return await self._aonce(engine, statements, operation, write, quick)
            except _Again as again:
                if attempt == RETRIES - 1:
                    raise failures.translate(
                        again.error, engine.dialect, lost=False) from again.error
                await asyncio.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a sync call on a worker thread; bound to no event loop."""
        if self._executor is None:
            with self._guard:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(
                        self._options["pool_size"], thread_name_prefix="deltamem-saver"
                    )
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def _aonce(
        self, engine: AsyncEngine, statements: Statements, operation: Operation[T], write: bool,
        quick: Operation[T | None] | None,
    ) -> T:
        # Our own engines of the servers commit by themselves, see `engines.async_engine`.
        explicit = engine is not self.given and statements.family != "sqlite"
        try:
            async with engine.connect() as connection:
                if explicit:
                    return await connection.run_sync(
                        lambda core: self._adapted(core, statements, operation, write, quick))
                chosen = await connection.execution_options(**{engines.WRITE: write})
                await chosen.begin()
                return await chosen.run_sync(
                    lambda core: _drive(
                        Session(core.connection, statements, core), operation, self))
        except Exception as error:
            if isinstance(error, _Again | DeltaMemError):
                raise
            raise self._failure(error, engine.sync_engine, None) from error

    def _adapted(
        self, core: Connection, statements: Statements, operation: Operation[T], write: bool,
        quick: Operation[T | None] | None,
    ) -> T:
        session = Session(core.connection, statements, core)
        try:
            result = None if quick is None else quick(session)
            if result is None:
                result = _explicit(session, operation, write)
        except BaseException as error:
            failure = self.failed(error, session, explicit=True)
            if failure is error:
                raise
            raise failure from error
        session.close()
        return result

    # -- purge --------------------------------------------------------------------------------

    def purge(self) -> None:
        """After a deletion on SQLite: what was deleted leaves the write-ahead log too."""
        if self.url.get_backend_name() != "sqlite" or self.memory:
            return
        raw = self.engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.fetchall()
            cursor.close()
        except Exception as error:
            raise self._failure(error, self.engine, raw) from error
        finally:
            raw.close()

    def outside(self, call: Callable[[Database], T]) -> T:
        """Something that cannot run inside a transaction.

        Raises:
            StorageError: or one of its kinds.
        """
        self._check_open()
        try:
            with self._writer:
                return call(self)
        except Exception as error:
            raise self._failure(error, self.engine, None) from error

    async def apurge(self) -> None:
        """The same from a coroutine."""
        if self.url.get_backend_name() == "sqlite":
            await self.in_thread(self.purge)

    # -- ends ---------------------------------------------------------------------------------

    def _failure(self, error: BaseException, engine: Engine, raw: Any) -> BaseException:
        dbapi_connection = getattr(raw, "dbapi_connection", None)
        lost = failures.is_lost(error, engine.dialect, dbapi_connection)
        if lost:
            self.stale_before = time.monotonic()
        return failures.translate(error, engine.dialect, lost=lost)

    def failed(
        self, error: BaseException, session: Session, *, explicit: bool = False
    ) -> BaseException:
        """Roll back after an error; what to raise instead of it."""
        family, dialect = session.statements.family, session.statements.dialect
        dbapi_connection = getattr(session.raw, "dbapi_connection", None)
        lost = failures.is_lost(error, dialect, dbapi_connection)
        try:
            if lost:
                self.stale_before = time.monotonic()
                session.raw.invalidate()
            elif explicit:
                session.rollback()
            else:
                session.raw.rollback()
        except Exception:
            with contextlib.suppress(Exception):
                session.raw.invalidate()
        if not lost and failures.may_retry(error, family):
            return _Again(error)
        return failures.translate(error, dialect, lost=lost)

    def _check_open(self) -> None:
        if self.closed:
            raise StorageError("the saver is open", remedy="Make another one.")

    def close(self) -> None:
        """Dispose our own sync engine; the async ones need `aclose`."""
        self.closed = True
        while self._idle:
            held = self._idle.pop()
            if held.process == os.getpid():
                held.session.raw.invalidate()
        if self._sync is not None and self._sync is not self.given:
            self._sync.dispose()
            self._sync = None
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    async def aclose_loop(self) -> None:
        """Dispose our own engine of the running event loop."""
        engine = self._loops.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.dispose()

    async def aclose(self) -> None:
        """Dispose all of our own engines."""
        await self.aclose_loop()
        await asyncio.to_thread(self.close)


@dataclass
class _Held:
    """A connection of our own, with its cursor."""

    session: Session
    process: int
    used: float


class _Again(Exception):
    """The transaction lost against another one."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def _pause(attempt: int) -> float:
    return float(0.002 * 2**attempt)


def _explicit(session: Session, operation: Operation[T], write: bool) -> T:
    """Run on a connection that commits by itself; a read is one statement and needs no more."""
    if not write:
        return operation(session)
    session.begin()
    result = operation(session)
    session.commit()
    return result


def _drive(session: Session, operation: Operation[T], database: Database) -> T:
    """Run and commit on a connection of SQLAlchemy's; on an error roll back and say what it was."""
    try:
        result = operation(session)
        session.raw.commit()
    except BaseException as error:
        failure = database.failed(error, session)
        if failure is error:
            raise
        raise failure from error
    session.close()
    return result
