"""Values to bytes and back: strict msgpack, memories as raw fp32, everything encrypted or nothing.

An `Item` is what a row holds: the kind (which says how the bytes are to be read) and the bytes.
Kinds: null, bytes, bytearray, msgpack, deltamem, each with "~" when text in it had lone
surrogates, and with "+cipher" when encrypted. Nothing is ever pickled or unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from langgraph.checkpoint.serde.base import CipherProtocol, SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from deltamem_agents.checkpoint import surrogates
from deltamem_agents.checkpoint.failures import DAMAGED
from deltamem_agents.core import codec
from deltamem_agents.core.state import Ledger, MemoryState
from deltamem_agents.errors import (
    CorruptStorageError,
    DeltaMemError,
    EncryptionError,
    SerializationError,
)

MEMORY_KIND = "deltamem"
INLINE_BYTES = 512
_KINDS = frozenset({"null", "bytes", "bytearray", "msgpack", MEMORY_KIND, "msgpack~", "json"})


class Item(NamedTuple):
    """One stored value; `blob` is the hash of the content, or None for an inline value."""

    kind: str
    data: bytes
    blob: bytes | None = None


def strict_serializer(allowed: Iterable[type | tuple[str, ...]] = ()) -> JsonPlusSerializer:
    """LangGraph's serializer, restricted to its safe types, our memory, and `allowed`."""
    return JsonPlusSerializer(
        pickle_fallback=False,
        allowed_msgpack_modules=[MemoryState, Ledger, *allowed],
    )


def encrypted_serializer(
    key: bytes,
    allowed: Iterable[type | tuple[str, ...]] = (),
    inner: SerializerProtocol | None = None,
) -> EncryptedSerializer:
    """LangGraph's AES serializer (EAX) around the strict one.

    Args:
        key: 16, 24 or 32 bytes.
        allowed: types beside the safe ones.
        inner: what packs the values; the strict serializer without it.

    Raises:
        EncryptionError: the key is no bytes, or has another length.
    """
    if not isinstance(key, bytes):
        raise EncryptionError(
            "an AES key is bytes",
            got=type(key).__name__,
            remedy="Pass for example secrets.token_bytes(32).",
        )
    if len(key) not in (16, 24, 32):
        raise EncryptionError(
            "an AES key has 16, 24 or 32 bytes",
            got=f"{len(key)} bytes",
            remedy="Pass for example secrets.token_bytes(32).",
        )
    return EncryptedSerializer.from_pycryptodome_aes(inner or strict_serializer(allowed), key=key)


def with_cipher(serde: SerializerProtocol, cipher: CipherProtocol | None) -> SerializerProtocol:
    """The serializer, with this cipher instead of its own (None: plain)."""
    inner = serde.serde if isinstance(serde, EncryptedSerializer) else serde
    return inner if cipher is None else EncryptedSerializer(cipher, inner)


class Coder:
    """Encodes and decodes the values of one tenant.

    Args:
        serde: LangGraph's serializer; an `EncryptedSerializer` turns encryption on.
        salt: what keeps the content hashes of two tenants apart; secret when encrypted.
    """

    def __init__(self, serde: SerializerProtocol, salt: bytes) -> None:
        self.cipher: CipherProtocol | None = None
        self.serde = serde
        if isinstance(serde, EncryptedSerializer):
            self.cipher, self.serde = serde.cipher, serde.serde
        if getattr(self.serde, "pickle_fallback", False):
            raise SerializationError(
                "the serializer has no pickle fallback",
                got=type(self.serde).__name__,
                remedy="Pickle runs code on load; use JsonPlusSerializer(pickle_fallback=False).",
            )
        self.salt = salt

    def encode(self, value: object) -> Item:
        """A value of a channel or a write."""
        return self.wrap(*self._dumps(value))

    def wrap(self, kind: str, data: bytes) -> Item:
        """A value that is packed already."""
        large = len(data) > INLINE_BYTES or kind == MEMORY_KIND
        blob = self.digest(kind, data) if large else None
        return Item(*self.seal(kind, data), blob)

    def encode_inline(self, value: object) -> Item:
        """A value that never becomes a blob (the body of a checkpoint)."""
        return Item(*self.seal(*self._dumps(value)))

    def _dumps(self, value: object) -> tuple[str, bytes]:
        if type(value) is MemoryState:
            return MEMORY_KIND, codec.encode(value)
        try:
            kind, data = self._pack(value)
        except DeltaMemError:
            raise
        except Exception as error:
            raise SerializationError(
                "values of the state can be stored by LangGraph's serializer",
                got=f"{type(value).__name__}: {error}",
                remedy="Store plain data, messages, dataclasses or pydantic models.",
            ) from error
        if kind not in _KINDS:
            raise SerializationError(
                "the serializer writes a known kind",
                got=kind,
                remedy="Give the saver LangGraph's JsonPlusSerializer, or no serde.",
            )
        return kind, data

    def _pack(self, value: object) -> tuple[str, bytes]:
        try:
            kind, data = self.serde.dumps_typed(value)
        except Exception:
            # The names of a mapping are not replaced by "?", they fail.
            shielded = surrogates.shield(value)
            if shielded is value:
                raise
            return "msgpack~", self.serde.dumps_typed(shielded)[1]
        if kind == "msgpack" and b"?" in data:
            shielded = surrogates.shield(value)
            if shielded is not value:
                return "msgpack~", self.serde.dumps_typed(shielded)[1]
        return kind, data

    def digest(self, kind: str, data: bytes) -> bytes:
        """The address of a content: the same for equal bytes of one tenant, and no other's."""
        hasher = hashlib.sha256(self.salt)
        hasher.update(kind.encode() + b"\0")
        hasher.update(data)
        # Cut, which also keeps a secret salt safe from extension.
        return hasher.digest()[:20]

    def seal(self, kind: str, data: bytes) -> tuple[str, bytes]:
        """Encrypt, where encryption is on."""
        if self.cipher is None:
            return kind, data
        name, sealed = self.cipher.encrypt(data)
        return f"{kind}+{name}", sealed

    def open(self, kind: str | None, data: bytes | None) -> tuple[str, bytes]:
        """Decrypt, where encryption is on; refuses what is not of this saver's sort.

        Raises:
            EncryptionError: plain where encrypted was due, or the reverse, or another key.
            CorruptStorageError: the row is damaged.
        """
        if kind is None or data is None:
            raise CorruptStorageError(
                "a value has a kind and bytes", got=(kind, data), remedy=DAMAGED
            )
        plain, _, cipher = kind.partition("+")
        if plain not in _KINDS:
            raise CorruptStorageError(
                "the kind of a value is known",
                got=kind,
                remedy="Update deltamem-agents, or restore the database from a backup.",
            )
        if (self.cipher is not None) != bool(cipher):
            raise EncryptionError(
                "rows are encrypted exactly where the saver has a key",
                got=f"a row of kind {kind!r}",
                remedy="Open the database with the key it was written with (or without any).",
            )
        if self.cipher is None:
            return plain, bytes(data)
        try:
            return plain, self.cipher.decrypt(cipher, bytes(data))
        except Exception as error:
            raise EncryptionError(
                "an encrypted row opens with the saver's key",
                got=f"{type(error).__name__}: {error}",
                remedy="Check the key; if it is right, the row was changed.",
            ) from error

    def verify(self, kind: str, data: bytes, blob: bytes) -> None:
        """Check that a content is the one that its address says.

        Raises:
            CorruptStorageError: it is another one.
        """
        if self.digest(kind, data) != bytes(blob):
            raise CorruptStorageError(
                "a blob agrees with the hash of its content",
                got=bytes(blob).hex(),
                remedy=DAMAGED,
            )

    def decode(self, kind: str | None, data: bytes | None, blob: bytes | None = None) -> Any:
        """The inverse of `encode`; a blob's content must agree with its hash."""
        plain, opened = self.open(kind, data)
        if blob is not None:
            self.verify(plain, opened, blob)
        if plain == MEMORY_KIND:
            return codec.decode(opened)
        try:
            value = self.serde.loads_typed((plain.removesuffix("~"), opened))
            return surrogates.unshield(value) if plain.endswith("~") else value
        except Exception as error:
            raise CorruptStorageError(
                "a stored value can be read",
                got=f"{type(error).__name__}: {error}",
                remedy="Install the package of its type, or restore the database from a backup.",
            ) from error
