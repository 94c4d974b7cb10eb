"""Opening: the schema is brought up to date once, and the tenant's key is checked."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol

from deltamem_agents.checkpoint.context import PLAIN, Context, Key
from deltamem_agents.checkpoint.database import Database
from deltamem_agents.checkpoint.guard import write_alone
from deltamem_agents.checkpoint.keys import (
    Sealed,
    add_key,
    change_key,
    held_key,
    holds_contents,
)
from deltamem_agents.checkpoint.migrations import migrate
from deltamem_agents.checkpoint.serde import Coder, with_cipher
from deltamem_agents.checkpoint.session import Session
from deltamem_agents.checkpoint.tables import Tables
from deltamem_agents.checkpoint.transactions import Job
from deltamem_agents.errors import EncryptionError

T = TypeVar("T")
KEY_BYTES = 32
OFFERS = 8


def plain_salt(tenant: str) -> bytes:
    """Keeps the hashes of two tenants apart, so that their blobs are never shared."""
    return hashlib.blake2b(tenant.encode(), digest_size=KEY_BYTES, person=b"deltamem").digest()


def new_key(context: Context, serde: SerializerProtocol) -> Key:
    """The tenant's next key, by the cipher of another serializer.

    The secret of keyed hashes outlives the keys that wrap it. What was hashed is not all stored (of
    a message only the facts), so that another secret would leave hashes that nothing matches.
    """
    coder = Coder(serde, b"")
    if coder.cipher is None:
        return Key(None, plain_salt(context.tenant), PLAIN)
    salt = context.key.salt if context.key.cipher else secrets.token_bytes(KEY_BYTES)
    return Key(coder.cipher, salt, coder.seal("bytes", salt))


class Tenancy:
    """What a saver and its clones learn about their database, and its key as it is now."""

    def __init__(self, tenant: str, tables: Tables) -> None:
        self.tenant, self.tables = tenant, tables
        self.key: Key | None = None
        # Of changes of key that go on, or went on last: several threads may change it at once.
        self._offered: deque[Key] = deque(maxlen=OFFERS)
        self._made: tuple[SerializerProtocol, Context] | None = None
        self._guard = threading.Lock()

    # -- running ------------------------------------------------------------------------------

    def run(
        self, serde: SerializerProtocol, database: Database, make: Callable[[Context], Job[T]]
    ) -> T:
        """Run a job, and again if the tenant's key was changed and the new one is known."""
        context = self.context(serde, database)
        while True:
            try:
                return database.run(make(context))
            except EncryptionError:
                newer = self.context(serde, database, context)
                if newer.key is context.key:
                    raise
            context = newer

    async def arun(
        self, serde: SerializerProtocol, database: Database, make: Callable[[Context], Job[T]]
    ) -> T:
        """The same from a coroutine."""
        context = await self.acontext(serde, database)
        while True:
            try:
                return await database.arun(make(context))
            except EncryptionError:
                newer = await self.acontext(serde, database, context)
                if newer.key is context.key:
                    raise
            context = newer

    def offer(self, key: Key) -> None:
        """A change of key begins: once it holds, whoever is refused finds its key here."""
        self._offered.append(key)

    def _offer(self, held: Sealed | None) -> Key | None:
        """The key of a row, if it is one of ours.

        A sealed one is one of a kind, but all plain ones are the same: that this saver decrypted
        once, before other changes, does not say that it wants that now.
        """
        for place, key in enumerate((self.key, *reversed(self._offered))):
            if key is not None and key.row == held and (held != PLAIN or place < 2):
                return key
        return None

    # -- opening ------------------------------------------------------------------------------

    def context(
        self, serde: SerializerProtocol, database: Database, refused: Context | None = None
    ) -> Context:
        """The context for a serializer.

        Args:
            serde: its cipher counts on first use only; then the tenant's key is shared by all.
            database: opened on first use.
            refused: one that the database refused; the tenant's key is then looked at again.
        """
        if self._wanted(refused):
            with self._guard:
                if self._wanted(refused):
                    try:
                        self.key = self._found(serde, database)
                    except BaseException:
                        if self.key is None:
                            database.release()  # nobody closes a saver that could not be opened
                        raise
        return self._make(serde)

    def _found(self, serde: SerializerProtocol, database: Database) -> Key:
        key = None
        while key is None:  # somebody else may be first to give it a key: then it is looked up
            key = database.run(self._opening(serde)) or database.run(self._first_key(serde))
        return key

    async def acontext(
        self, serde: SerializerProtocol, database: Database, refused: Context | None = None
    ) -> Context:
        """The same from a coroutine; two of them may open at once: the later finds the tenant."""
        if self._wanted(refused):
            try:
                key = None
                while key is None:
                    key = await database.arun(self._opening(serde)) or await database.arun(
                        self._first_key(serde)
                    )
                self.key = key
            except BaseException:
                if self.key is None:
                    await database.aclose_loop()
                    database.release()
                raise
        return self._make(serde)

    def _wanted(self, refused: Context | None) -> bool:
        return self.key is None or (refused is not None and refused.key is self.key)

    def _make(self, serde: SerializerProtocol) -> Context:
        made, key = self._made, self.key
        assert key is not None, "the database was opened"
        if made is None or made[0] is not serde or made[1].key is not key:
            coder = Coder(with_cipher(serde, key.cipher), key.salt)
            made = self._made = (serde, Context(self.tenant, self.tables, coder, key))
        return made[1]

    def _coder(self, serde: SerializerProtocol) -> Coder:
        return Coder(serde if self.key is None else with_cipher(serde, self.key.cipher), b"")

    def _opening(self, serde: SerializerProtocol) -> Job[Key | None]:
        return Job(lambda session: self.open(session, serde), write=True, core=True)

    def _first_key(self, serde: SerializerProtocol) -> Job[Key | None]:
        return Job(lambda session: self._encrypt(session, serde), write=True, core=True)

    def open(self, session: Session, serde: SerializerProtocol) -> Key | None:
        """Migrate, then find (or make) the salt of the tenant's hashes.

        Returns:
            The tenant's key; None if it is plain and empty, and is now to get its first one.

        Raises:
            EncryptionError: the tenant is encrypted with another key, or is not where it should
                be, or the reverse.
        """
        migrate(session.core, self.tables)
        held = held_key(session.core, self.tables, self.tenant)
        if held is None:
            write_alone(session.core)  # and nobody makes it after another look
            held = held_key(session.core, self.tables, self.tenant)
        if known := self._offer(held):
            return known
        coder = self._coder(serde)
        if coder.cipher is None:
            return self._plain(session, held)
        if held is not None and held != PLAIN:
            return Key(coder.cipher, coder.open(*held)[1], held)
        decrypted = held is not None and self.key is not None  # for good, by somebody else
        if decrypted or holds_contents(
            session.core, self.tables, self.tenant, opened=held is not None
        ):
            raise self._refusal()
        if held is not None:
            return None
        key = _sealed(coder)
        add_key(session.core, self.tables, self.tenant, key.row)
        return key

    def _plain(self, session: Session, held: tuple[str, bytes] | None) -> Key:
        if held is None:
            add_key(session.core, self.tables, self.tenant, PLAIN)
        elif held != PLAIN:
            raise EncryptionError(
                f"tenant {self.tenant!r} is encrypted",
                got="no key",
                remedy="Open it with the key it was written with (`encryption_key=`).",
            )
        return Key(None, plain_salt(self.tenant), PLAIN)

    def _encrypt(self, session: Session, serde: SerializerProtocol) -> Key | None:
        """The first key of a tenant that was plain so far; None if it is no more."""
        key = _sealed(self._coder(serde))
        if not change_key(session.core, self.tables, self.tenant, PLAIN, key.row):
            return None
        # Once more: by now those have committed who wrote in plain when it was opened.
        if holds_contents(session.core, self.tables, self.tenant):
            raise self._refusal()
        return key

    def _refusal(self) -> EncryptionError:
        return EncryptionError(
            f"tenant {self.tenant!r} holds no plaintext rows",
            got="a key for them",
            remedy="Open it without a key and call `rekey(key)`, or use another tenant.",
        )


def _sealed(coder: Coder) -> Key:
    salt = secrets.token_bytes(KEY_BYTES)
    return Key(coder.cipher, salt, coder.seal("bytes", salt))
