"""`SQLAlchemySaver`: LangGraph's checkpointer, sync and async in one class.

Each method prepares its values, and hands one operation to the database; the async methods hand
over the same operation. A clone (`copy.copy`, `with_allowlist`) shares connections and tenant.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from deltamem_agents.checkpoint import arguments, reading, tenancy
from deltamem_agents.checkpoint import identifiers as ids
from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.database import Database
from deltamem_agents.checkpoint.jobs import (
    get_job,
    managed,
    page_job,
    put_job,
    send,
    writes_job,
)
from deltamem_agents.checkpoint.management import Management
from deltamem_agents.checkpoint.serde import encrypted_serializer, strict_serializer
from deltamem_agents.checkpoint.tables import Tables
from deltamem_agents.checkpoint.transactions import Job, Operation
from deltamem_agents.errors import ConfigError

T = TypeVar("T")


class SQLAlchemySaver(Management, BaseCheckpointSaver[str]):
    """Checkpoints in SQLite, PostgreSQL, MariaDB or MySQL.

    Args:
        source: a SQLAlchemy URL, the path of a SQLite file, or your own `Engine` or `AsyncEngine`
            (which is never disposed).
        tenant: whose checkpoints these are; no method sees another tenant's.
        serde: a serializer of your own; an `EncryptedSerializer` turns encryption on.
        encryption_key: 16, 24 or 32 bytes; everything that is content is then AES-encrypted.
        allowed: types beside LangGraph's safe ones that the state may hold (classes, or tuples of
            module and name).
        schema: PostgreSQL schema (or MySQL database) of the tables; made if it is not there.
        prefix: put before the name of each table; lower-case letters, digits, underscores, as the
            schema.
        synchronous: SQLite's durability: "FULL" (default) survives a power cut, "NORMAL" may lose
            the last checkpoints of one, and is faster.
        busy_timeout: seconds that SQLite waits for another process's transaction.
        pool_size: connections kept; also the threads of the async methods on SQLite.

    Raises:
        ConfigError: an argument breaks its rule, or the database's driver is not installed.
        EncryptionError: the key is none.
        IdentifierError: the tenant's name is none.
    """

    def __init__(
        self,
        source: str | URL | Path | Engine | AsyncEngine,
        *,
        tenant: str = "default",
        serde: SerializerProtocol | None = None,
        encryption_key: bytes | None = None,
        allowed: Collection[type | tuple[str, ...]] = (),
        schema: str | None = None,
        prefix: str = "",
        synchronous: str = "FULL",
        busy_timeout: float = 30.0,
        pool_size: int = 8,
    ) -> None:
        if serde is not None and encryption_key is not None:
            raise ConfigError(
                "a saver has a serde or an encryption_key, not both",
                got="both",
                remedy="Give the key alone, or an EncryptedSerializer as the serde.",
            )
        if encryption_key is not None:
            serde = encrypted_serializer(encryption_key, allowed)
        super().__init__(serde=serde or strict_serializer(allowed))
        self.tenant = arguments.checked_tenant(tenant)
        arguments.check_names(schema, prefix)
        self._tables = Tables(schema, prefix)
        self._database = Database(
            source,
            self._tables,
            synchronous=synchronous,
            busy_timeout=busy_timeout,
            pool_size=pool_size,
        )
        self._tenancy = tenancy.Tenancy(self.tenant, self._tables)

    # -- life ---------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The sync engine, for stores that share the saver's database."""
        return self._database.engine

    @property
    def context(self) -> Context:
        """The tenant and how its values are encoded; sets the database up on first use."""
        return self._tenancy.context(self.serde, self._database)

    def context_after(self, refused: Context) -> Context:
        """The context after the database refused one: of the key as it is now."""
        return self._tenancy.context(self.serde, self._database, refused)

    async def acontext(self) -> Context:
        """The same from a coroutine."""
        return await self._tenancy.acontext(self.serde, self._database)

    def setup(self) -> None:
        """Create or upgrade the tables; done by itself on first use.

        Raises:
            SchemaVersionError: the database is newer than this package.
            EncryptionError: the tenant's key is another one.
        """
        _ = self.context

    async def asetup(self) -> None:
        """The same from a coroutine."""
        await self.acontext()

    def close(self) -> None:
        """Give our own connections back; an engine that was given stays open."""
        self._database.close()

    async def aclose(self) -> None:
        """The same, the async connections included."""
        await self._database.aclose()

    async def aclose_loop(self) -> None:
        """Give back the connections of the running event loop only; the saver stays open.

        A saver that outlives several `asyncio.run` calls calls this at the end of each.
        """
        await self._database.aclose_loop()

    def __enter__(self) -> SQLAlchemySaver:
        self.setup()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> SQLAlchemySaver:
        await self.asetup()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- versions -----------------------------------------------------------------------------

    def get_next_version(self, current: str | int | None, channel: None) -> str:
        """The next version of a channel: a counter, and a fraction that tells forks apart."""
        if current is None:
            count = 0
        elif isinstance(current, int):
            count = current
        else:
            count = int(current.split(".")[0])
        return f"{count + 1:032}.{random.random():016}"

    # -- sync ---------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the newest of its thread and namespace."""
        return self._run(get_job(ids.address_of(config)))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; read page by page, nothing is held between two of them.

        `filter` selects by metadata: each key, as it stands, must be there with an equal value.
        """
        wanted = reading.listing(config, filter, before, limit)
        return self._list(wanted, limit)

    def _list(self, wanted: reading.Listing, limit: int | None) -> Iterator[CheckpointTuple]:
        pages = reading.pages(wanted, limit)
        request = next(pages, None)
        while request is not None:
            loaded = self._run(page_job(*request))
            yield from (entry.value for entry in loaded if reading.selected(entry, wanted))
            request = send(pages, loaded)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, whole or not at all."""
        return self._run(put_job(config, checkpoint, metadata, new_versions))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store the writes of a task, all or none."""
        if writes:
            self._run(writes_job(config, writes, task_id, task_path))

    # -- async --------------------------------------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async `get_tuple`."""
        return await self._arun(get_job(ids.address_of(config)))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async `list`."""
        wanted = reading.listing(config, filter, before, limit)
        pages = reading.pages(wanted, limit)
        request = next(pages, None)
        while request is not None:
            loaded = await self._arun(page_job(*request))
            for entry in loaded:
                if reading.selected(entry, wanted):
                    yield entry.value
            request = send(pages, loaded)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Async `put`."""
        return await self._arun(put_job(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Async `put_writes`."""
        if writes:
            await self._arun(writes_job(config, writes, task_id, task_path))

    # -- running ------------------------------------------------------------------------------

    def _run(self, make: Callable[[Context], Job[T]]) -> T:
        return self._tenancy.run(self.serde, self._database, make)

    async def _arun(self, make: Callable[[Context], Job[T]]) -> T:
        return await self._tenancy.arun(self.serde, self._database, make)

    def _manage(self, make: Callable[[Context], Operation[T]], *, write: bool = True) -> T:
        return self._run(managed(make, write))

    async def _amanage(self, make: Callable[[Context], Operation[T]], *, write: bool = True) -> T:
        return await self._arun(managed(make, write))
