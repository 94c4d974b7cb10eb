"""The two transports: an operation is written once, and run from a thread or from a coroutine.

An operation is a function of a `Session`. The sync methods run it on a pooled connection; the
async methods run the same function either in a worker thread (SQLite and engines that were given)
or on SQLAlchemy's adapted connection of an async driver. No lock is held between operations, and
none across the yields of a listing.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from deltamem_agents.checkpoint import arguments, engines, failures
from deltamem_agents.checkpoint.connections import Connections
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.statements import Statements
from deltamem_agents.checkpoint.tables import Tables
from deltamem_agents.checkpoint.transactions import (
    RETRIES,
    Again,
    Job,
    Operation,
    pause,
    run_explicit,
    run_managed,
)
from deltamem_agents.checkpoint.turns import Turns
from deltamem_agents.checkpoint.workers import Workers
from deltamem_agents.errors import DeltaMemError, StorageError

T = TypeVar("T")
__all__ = ["Database", "Operation"]


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
        self._options: dict[str, Any] = {
            "synchronous": arguments.checked_level(synchronous),
            "busy_timeout": arguments.checked_timeout(busy_timeout),
            "pool_size": arguments.checked_size(pool_size),
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
        self._workers = Workers(pool_size)
        self._guard = threading.Lock()  # of this object's own fields
        self._turns = Turns()  # of a SQLite file's writers
        self.connections = Connections(pool_size)
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
        plain = self.url.get_backend_name() == "sqlite" and "aiosqlite" not in self.url.drivername
        return self.given is not None or self.memory or plain

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

    def run(self, job: Job[T]) -> T:
        """Run one operation in one transaction.

        Raises:
            StorageError: or one of its kinds; nothing of the operation was kept.
        """
        self._check_open()
        engine = self.engine
        statements = self.statements(engine)
        if statements.family == "sqlite" and (job.write or self.memory):
            return self._in_turn(job, lambda one: self._once(engine, statements, one))
        for attempt in range(RETRIES):
            try:
                return self._once(engine, statements, job)
            except Again as again:
                self._last(attempt, again, engine)
                time.sleep(pause(attempt))
        raise AssertionError("unreachable")

    def _in_turn(self, job: Job[T], carry_out: Callable[[Job[Any]], Any]) -> T:
        if job.write and not job.core:
            return self._turns.run(job, carry_out)
        with self._turns.lock:
            result: T = carry_out(job)
            return result

    def _last(self, attempt: int, again: Again, engine: Engine) -> None:
        if attempt == RETRIES - 1:
            raise failures.translate(again.error, engine.dialect, lost=False) from again.error

    def _once(self, engine: Engine, statements: Statements, job: Job[T]) -> T:
        if job.core or engine is self.given or self.memory:
            return self._managed(engine, statements, job)
        try:
            held = self.connections.take(engine, statements)
        except Exception as error:
            raise self._failure(error, engine) from error
        try:
            result = run_explicit(held.session, job, self.connections.suspect)
        except BaseException:
            held.drop()
            raise
        self.connections.give_back(held)
        return result

    def _managed(self, engine: Engine, statements: Statements, job: Job[T]) -> T:
        """On a connection of SQLAlchemy's pool, in a transaction as SQLAlchemy makes it."""
        try:
            if job.core:
                chosen = engine.connect().execution_options(**{engines.WRITE: job.write})
                with chosen as connection:
                    connection.begin()
                    self._prepare_given(connection.connection)
                    session = Session(connection.connection, statements, connection)
                    return run_managed(session, job, self.connections.suspect)
            raw = engine.raw_connection()
        except Exception as error:
            if isinstance(error, Again | DeltaMemError):
                raise
            raise self._failure(error, engine) from error
        try:
            self._prepare_given(raw)
            session = Session(raw, statements)
            if job.write and statements.family == "sqlite":
                session.begin()
            return run_managed(session, job, self.connections.suspect)
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

    # -- async --------------------------------------------------------------------------------

    async def arun(self, job: Job[T]) -> T:
        """The same from a coroutine."""
        self._check_open()
        if self.hops:
            return await self.in_thread(lambda: self.run(job))
        engine = self.async_engine()
        statements = self.statements(engine.sync_engine)
        for attempt in range(RETRIES):
            try:
                return await self._aonce(engine, statements, job)
            except Again as again:
                self._last(attempt, again, engine.sync_engine)
                await asyncio.sleep(pause(attempt))
        raise AssertionError("unreachable")

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a sync call on a worker thread; bound to no event loop."""
        return await self._workers.run(call)

    async def _aonce(self, engine: AsyncEngine, statements: Statements, job: Job[T]) -> T:
        # Our own engines of the servers commit by themselves, see `engines.async_engine`.
        explicit = engine is not self.given and statements.family != "sqlite"
        run = run_explicit if explicit else run_managed
        try:
            async with engine.connect() as connection:
                if not explicit:
                    await connection.execution_options(**{engines.WRITE: job.write})
                    await connection.begin()
                return await connection.run_sync(
                    lambda core: run(
                        Session(core.connection, statements, core), job, self.connections.suspect
                    )
                )
        except Exception as error:
            if isinstance(error, Again | DeltaMemError):
                raise
            raise self._failure(error, engine.sync_engine) from error

    # -- purge --------------------------------------------------------------------------------

    def purge(self) -> bool:
        """After a deletion on SQLite: what was deleted leaves the write-ahead log too.

        Returns:
            Whether it has; False while another connection still reads what was there before.
        """
        if self.url.get_backend_name() != "sqlite" or self.memory:
            return True
        return self.outside(lambda database: engines.truncate_log(database.engine))

    def outside(self, call: Callable[[Database], T]) -> T:
        """Something that cannot run inside a transaction.

        Raises:
            StorageError: or one of its kinds.
        """
        self._check_open()
        try:
            with self._turns.lock:
                return call(self)
        except Exception as error:
            raise self._failure(error, self.engine) from error

    async def apurge(self) -> bool:
        """The same from a coroutine."""
        if self.url.get_backend_name() != "sqlite":
            return True
        return await self.in_thread(self.purge)

    # -- ends ---------------------------------------------------------------------------------

    def _failure(self, error: BaseException, engine: Engine) -> BaseException:
        lost = failures.never_made(error, engine.dialect)
        if lost:
            self.connections.suspect()
        return failures.translate(error, engine.dialect, lost=lost)

    def _check_open(self) -> None:
        if self.closed:
            raise StorageError("the saver is open", got="a closed one", remedy="Make another one.")

    def release(self) -> None:
        """Close our own connections that are idle; others are made when they are needed."""
        self.connections.drop_all()
        if self._sync is not None and self._sync is not self.given:
            self._sync.dispose()

    def close(self) -> None:
        """Dispose our own sync engine; the async ones need `aclose`."""
        self.closed = self.connections.closed = True
        self.release()
        self._workers.close()

    async def aclose_loop(self) -> None:
        """Dispose our own engine of the running event loop."""
        engine = self._loops.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.dispose()

    async def aclose(self) -> None:
        """The same, and the engine of the running event loop."""
        await self.aclose_loop()
        await asyncio.to_thread(self.close)
