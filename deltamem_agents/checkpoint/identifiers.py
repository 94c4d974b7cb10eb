"""Identifiers: what may name a thread, a namespace, a checkpoint, a task or a channel.

The rule is the same on every database, so that a thread that one of them accepts is accepted by
all: text of valid Unicode without NUL, at most a fixed number of UTF-8 bytes. Integers (and
UUIDs) are taken as their text. Namespaces may be of any length; keys hold their hash.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple
from uuid import UUID

from langchain_core.runnables import RunnableConfig

from deltamem_agents.errors import IdentifierError, MissingThreadError

TENANT_BYTES = 128
THREAD_BYTES = 768
CHECKPOINT_BYTES = 128
TASK_BYTES = 256
CHANNEL_BYTES = 512
NAMESPACE_BYTES = 60_000
HASH_BYTES = 16


def identifier(value: object, name: str, limit: int) -> str:
    """Check one identifier.

    Args:
        value: str, int or UUID.
        name: how the reader knows it ("thread_id").
        limit: most UTF-8 bytes.

    Raises:
        IdentifierError: not text, or NUL, a lone surrogate, or too long.
    """
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int | UUID):
            raise IdentifierError(
                f"{name} is a str, an int or a UUID", got=value, remedy="Pass str(...) of it."
            )
        value = str(value)
    if "\x00" in value:
        raise IdentifierError(
            f"{name} holds no NUL character",
            got=value,
            remedy="Remove it, or use a hash of this name.",
        )
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        raise IdentifierError(
            f"{name} is valid Unicode (no lone surrogates)",
            got=ascii(value),
            remedy="Repair the text, or use a hash of this name.",
        ) from error
    if size > limit:
        raise IdentifierError(
            f"{name} takes at most {limit} bytes of UTF-8",
            got=f"{size} bytes",
            remedy="Use a shorter name, for example a hash of this one.",
        )
    return value


def namespace_hash(namespace: str) -> bytes:
    """The namespace as a key: empty for the root, else 16 bytes."""
    if not namespace:
        return b""
    return hashlib.blake2b(namespace.encode(), digest_size=HASH_BYTES).digest()


class Address(NamedTuple):
    """Where a checkpoint lives inside a tenant."""

    thread_id: str
    namespace: str
    namespace_key: bytes
    checkpoint_id: str | None

    @property
    def config(self) -> RunnableConfig:
        """The same as LangGraph writes it."""
        return make_config(self.thread_id, self.namespace, self.checkpoint_id)


def make_config(thread_id: str, namespace: str, checkpoint_id: str | None) -> RunnableConfig:
    """A config that names one checkpoint (or, without an id, the newest of its namespace)."""
    configurable = {"thread_id": thread_id, "checkpoint_ns": namespace}
    if checkpoint_id is not None:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def checked_thread(value: object) -> str:
    """A thread id as text."""
    if value is None or value == "":
        raise MissingThreadError(
            "a config names a thread",
            got=value,
            remedy='Pass {"configurable": {"thread_id": "..."}}.',
        )
    return identifier(value, "thread_id", THREAD_BYTES)


def address_of(config: RunnableConfig) -> Address:
    """Read thread, namespace and checkpoint from a config.

    Raises:
        MissingThreadError: there is no thread id.
        IdentifierError: an identifier breaks its rule.
    """
    configurable = (config or {}).get("configurable") or {}
    thread_id = checked_thread(configurable.get("thread_id"))
    namespace = configurable.get("checkpoint_ns") or ""
    if namespace:
        namespace = identifier(namespace, "checkpoint_ns", NAMESPACE_BYTES)
    checkpoint_id = configurable.get("checkpoint_id") or None
    if checkpoint_id is not None:
        checkpoint_id = identifier(checkpoint_id, "checkpoint_id", CHECKPOINT_BYTES)
    return Address(thread_id, namespace, namespace_hash(namespace), checkpoint_id)
