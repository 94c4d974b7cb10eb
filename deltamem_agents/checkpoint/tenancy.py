"""Opening: the schema is brought up to date once, and the tenant's key is checked."""

from __future__ import annotations

import hashlib
import secrets
import threading

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from sqlalchemy import select

from deltamem_agents.checkpoint.context import Context
from deltamem_agents.checkpoint.database import Database
from deltamem_agents.checkpoint.migrations import migrate
from deltamem_agents.checkpoint.serde import Coder
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.tables import Tables
from deltamem_agents.checkpoint.transactions import Job
from deltamem_agents.errors import EncryptionError

KEY_BYTES = 32


def plain_salt(tenant: str) -> bytes:
    """Keeps the hashes of two tenants apart, so that their blobs are never shared."""
    return hashlib.blake2b(tenant.encode(), digest_size=KEY_BYTES, person=b"deltamem").digest()


class Tenancy:
    """What a saver and its clones learn once about their database."""

    def __init__(self, tenant: str, tables: Tables) -> None:
        self.tenant, self.tables = tenant, tables
        self.salt: bytes | None = None
        self._context: Context | None = None
        self._serde: SerializerProtocol | None = None
        self._guard = threading.Lock()

    def context(self, serde: SerializerProtocol, database: Database) -> Context:
        """The context for a serializer; opens the database on first use."""
        if self.salt is None:
            with self._guard:
                if self.salt is None:
                    try:
                        self.salt = database.run(self._opening(serde))
                    except BaseException:
                        database.release()  # nobody closes a saver that could not be opened
                        raise
        return self._make(serde, self.salt)

    async def acontext(self, serde: SerializerProtocol, database: Database) -> Context:
        """The same from a coroutine; two of them may open at once: the later finds the tenant."""
        if self.salt is None:
            try:
                self.salt = await database.arun(self._opening(serde))
            except BaseException:
                await database.aclose_loop()
                database.release()
                raise
        return self._make(serde, self.salt)

    def _make(self, serde: SerializerProtocol, salt: bytes) -> Context:
        context = self._context
        if context is None or self._serde is not serde:
            context = Context(self.tenant, self.tables, Coder(serde, salt))
            self._context, self._serde = context, serde
        return context

    def _opening(self, serde: SerializerProtocol) -> Job[bytes]:
        return Job(lambda session: self.open(session, serde), write=True, core=True)

    def open(self, session: Session, serde: SerializerProtocol) -> bytes:
        """Migrate, then find (or make) the salt of the tenant's hashes.

        Raises:
            EncryptionError: the tenant is encrypted with another key, or is not where it should
                be, or the reverse.
        """
        migrate(session.core, self.tables)
        table = self.tables.tenants
        row = session.core.execute(
            select(table.c.kind, table.c.wrapped_key).where(table.c.tenant == self.tenant)
        ).first()
        if not isinstance(serde, EncryptedSerializer):
            if row is not None:
                raise EncryptionError(
                    f"tenant {self.tenant!r} is encrypted",
                    got="no key",
                    remedy="Open it with the key it was written with (`encryption_key=`).",
                )
            return plain_salt(self.tenant)
        coder = Coder(serde, b"")
        if row is not None:
            salt: bytes = coder.open(row[0], row[1])[1]
            return salt
        return self._new_key(session, coder)

    def _new_key(self, session: Session, coder: Coder) -> bytes:
        table, checkpoints = self.tables.tenants, self.tables.checkpoints
        if session.core.execute(
            select(checkpoints.c.id).where(checkpoints.c.tenant == self.tenant).limit(1)
        ).first():
            raise EncryptionError(
                f"tenant {self.tenant!r} holds no plaintext rows",
                got="a key for them",
                remedy="Open it without a key and call `rekey(key)`, or use another tenant.",
            )
        salt = secrets.token_bytes(KEY_BYTES)
        kind, wrapped = coder.seal("bytes", salt)
        session.core.execute(
            table.insert().values(tenant=self.tenant, kind=kind, wrapped_key=wrapped)
        )
        return salt
