"""The saver's upkeep: who is there, counts, space, keys, import.

Every method has an async twin with an "a" before its name; both run the same operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol
from sqlalchemy import URL, Engine

from deltamem_agents.checkpoint import engines, upkeep
from deltamem_agents.checkpoint.importing import Source
from deltamem_agents.checkpoint.rekey import rekey
from deltamem_agents.checkpoint.removal import Removal
from deltamem_agents.checkpoint.serde import encrypted_serializer, strict_serializer
from deltamem_agents.checkpoint.takeover import Imported, take_over
from deltamem_agents.checkpoint.tenancy import Tenancy, new_key
from deltamem_agents.checkpoint.transactions import Job
from deltamem_agents.checkpoint.upkeep import Stats, ThreadRecord

if TYPE_CHECKING:
    from deltamem_agents.checkpoint.context import Context, Key
    from deltamem_agents.checkpoint.database import Database
    from deltamem_agents.checkpoint.transactions import Operation

T = TypeVar("T")


class Maintenance:
    """Mixed into `SQLAlchemySaver`."""

    serde: SerializerProtocol
    _database: Database
    _tenancy: Tenancy

    def _manage(self, make: Callable[[Context], Operation[T]], *, write: bool = True) -> T:
        raise NotImplementedError

    async def _amanage(self, make: Callable[[Context], Operation[T]], *, write: bool = True) -> T:
        raise NotImplementedError

    def threads(self) -> list[ThreadRecord]:
        """The tenant's threads with their counts, the one that changed last first.

        Reads narrow rows only: no value of a state is loaded, however large it is.
        """
        return self._manage(lambda c: lambda s: upkeep.threads(s, c), write=False)

    async def athreads(self) -> list[ThreadRecord]:
        """Async `threads`."""
        return await self._amanage(lambda c: lambda s: upkeep.threads(s, c), write=False)

    def stats(self) -> Stats:
        """Counts and bytes of the tenant."""
        return self._manage(lambda c: lambda s: upkeep.stats(s, c), write=False)

    async def astats(self) -> Stats:
        """Async `stats`."""
        return await self._amanage(lambda c: lambda s: upkeep.stats(s, c), write=False)

    def purge(self) -> bool:
        """Empty SQLite's write-ahead log of what was deleted; every deletion does it by itself.

        Returns:
            Whether it is empty: False while another connection reads an older state of the file.
            The databases with a server answer True; what their own logs keep is theirs.
        """
        return self._database.purge()

    async def apurge(self) -> bool:
        """Async `purge`."""
        return await self._database.apurge()

    def vacuum(self) -> Removal:
        """Collect what nothing refers to, and give free space back to the system.

        Returns:
            What was collected; `purged` says whether SQLite's log is rid of it, as of `purge`.
        """
        report = self._manage(lambda c: lambda s: upkeep.sweep(s, c))
        return replace(report, purged=self._database.outside(upkeep.vacuum))

    async def avacuum(self) -> Removal:
        """Async `vacuum`."""
        report = await self._amanage(lambda c: lambda s: upkeep.sweep(s, c))
        purged = await self._database.in_thread(lambda: self._database.outside(upkeep.vacuum))
        return replace(report, purged=purged)

    def rekey(self, encryption_key: bytes | None) -> bool:
        """Encrypt everything of the tenant with another key (None: decrypt it for good).

        This saver and its clones go on with the new key. Others that have the old one get an
        `EncryptionError`, and nothing that they write from then on is stored.

        Returns:
            Whether SQLite's log is rid of what the old key could open, as of `purge`.
        """
        serde = self._serde_for(encryption_key)
        make = self._rekeying(serde)
        self._tenancy.key = self._tenancy.run(self.serde, self._database, make)
        self.serde = serde
        return self._database.purge()

    async def arekey(self, encryption_key: bytes | None) -> bool:
        """Async `rekey`."""
        serde = self._serde_for(encryption_key)
        make = self._rekeying(serde)
        self._tenancy.key = await self._tenancy.arun(self.serde, self._database, make)
        self.serde = serde
        return await self._database.apurge()

    def _rekeying(self, serde: SerializerProtocol) -> Callable[[Context], Job[Key]]:
        def make(context: Context) -> Job[Key]:
            # Known before it holds, so that this saver's writers find it as soon as it does.
            key = new_key(context, serde)
            self._tenancy.offer(key)
            return Job(rekey(context, key), write=True, core=True)

        return make

    def _serde_for(self, key: bytes | None) -> SerializerProtocol:
        inner = getattr(self.serde, "serde", self.serde)
        if key is None:
            return inner if inner is not None else strict_serializer()
        return encrypted_serializer(key, inner=inner)

    def import_checkpoints(self, source: str | URL | Path | Engine) -> Imported:
        """Take over a database of LangGraph's official SQLite or PostgreSQL saver.

        History, pending writes and metadata come along; the source is only read.
        """
        engine = engines.reader(source)
        try:
            with engine.connect() as connection:
                reader = Source(connection)
                return sum(
                    (self._manage(take_over(reader, name)) for name in reader.threads()), Imported()
                )
        finally:
            if engine is not source:
                engine.dispose()

    async def aimport_checkpoints(self, source: str | URL | Path | Engine) -> Imported:
        """Async `import_checkpoints` (in a thread, by the sync methods)."""
        return await self._database.in_thread(lambda: self.import_checkpoints(source))
