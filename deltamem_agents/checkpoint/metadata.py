"""Metadata: how it is stored, and the one meaning of a filter.

A filter `{name: value, ...}` selects a checkpoint iff its metadata has every `name` as a top-level
key and the value there is equal to `value` as JSON: objects regardless of the order of their keys,
lists element by element, numbers by value (1 equals 1.0), true never equal to 1, null only to
null (a missing key matches nothing). Names are keys as they stand: "a.b" is one key, not a path.

The row holds 8 bytes of hash per entry (`terms`); SQL narrows by these, and the exact comparison is
made here, so that every database gives the same answer and nothing of a filter becomes SQL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    CheckpointMetadata,
    get_serializable_checkpoint_metadata,
)

from deltamem_agents.checkpoint.failures import DAMAGED
from deltamem_agents.errors import CorruptStorageError, SerializationError

TERM_BYTES = 8
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_encode_plain = json.JSONEncoder(separators=(",", ":")).encode
_encode_text = json.encoder.encode_basestring_ascii
FENCE_KEY = "deltamem_fence"


def collect(config: RunnableConfig, metadata: CheckpointMetadata) -> dict[str, Any]:
    """What LangGraph stores as a checkpoint's metadata: its own, and the config's scalars."""
    collected = dict(get_serializable_checkpoint_metadata(config, metadata))
    collected.pop(FENCE_KEY, None)
    return collected


def dumps(metadata: Mapping[str, Any]) -> str:
    """Metadata to ASCII JSON (NaN, NUL and lone surrogates survive).

    Raises:
        SerializationError: a value is not JSON.
    """
    try:
        return _encode_plain(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(
            "checkpoint metadata is JSON",
            got=str(error),
            remedy="Keep other values in the graph's state.",
        ) from error


def loads(text: str) -> CheckpointMetadata:
    """The inverse of `dumps`.

    Raises:
        CorruptStorageError: this is not a JSON object.
    """
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CorruptStorageError("metadata is JSON", got=text, remedy=DAMAGED) from error
    if not isinstance(value, dict):
        raise CorruptStorageError("metadata is a JSON object", got=value, remedy=DAMAGED)
    return cast("CheckpointMetadata", value)


def canonical(value: object) -> str:
    """JSON in which equal values have equal text.

    Raises:
        SerializationError: the value is not JSON.
    """
    try:
        if isinstance(value, str):
            return _encode_text(value)
        if value == {}:
            return "{}"
        return _encode(_normal(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(
            "metadata, and a filter of it, is JSON",
            got=value,
            remedy="Use text, numbers, booleans, None, lists, and dictionaries with text keys.",
        ) from error


def _normal(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {_name(name): _normal(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(entry) for entry in value]
    return value


def _name(name: object) -> str:
    # As json.dumps writes keys that are not text.
    return (
        name
        if isinstance(name, str)
        else cast("str", next(iter(json.loads(json.dumps({name: 0})))))
    )


@lru_cache(maxsize=1024)
def _key_text(name: str) -> str:
    return json.dumps(name) + ":"


def term(name: str, value: object, key: bytes) -> bytes:
    """8 bytes that stand for "`name` equals `value`"."""
    if isinstance(value, str | int):
        return _scalar_term(name, value, key)
    return _hash_term(name, canonical(value), key)


@lru_cache(maxsize=4096, typed=True)
def _scalar_term(name: str, value: str | int, key: bytes) -> bytes:
    # Source, run and the config's values are the same in one checkpoint after another.
    return _hash_term(name, canonical(value), key)


def _hash_term(name: str, shown: str, key: bytes) -> bytes:
    content = (_key_text(name) + shown).encode()
    return hashlib.blake2b(content, digest_size=TERM_BYTES, key=key).digest()


def terms(metadata: Mapping[str, Any], key: bytes) -> bytes:
    """The terms of all entries, one after another."""
    return b"".join([term(name, value, key) for name, value in metadata.items()])


def matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the filter selects this metadata; see the module's text for the meaning."""
    return all(
        name in metadata and canonical(metadata[name]) == canonical(value)
        for name, value in wanted.items()
    )
