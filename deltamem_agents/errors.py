"""Every error this package raises on purpose, as one tree.

Each says three things: the rule that was broken, the value received, and the remedy.
Where a built-in error has the same meaning (`ValueError`, `FileNotFoundError`), ours is one of
those too, so that callers who know only Python's own errors still catch it.
"""

from __future__ import annotations


class DeltaMemError(Exception):
    """The root of the tree.

    Args:
        rule: what must hold, as a statement ("rank is at least 1").
        got: the value received; its repr is shortened to 200 characters.
        remedy: what the reader can do about it, as an imperative.
    """

    def __init__(self, rule: str, *, got: object, remedy: str) -> None:
        self.rule, self.got, self.remedy = rule, got, remedy
        super().__init__(f"{rule}; got {_short(got)}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.rule, self.got, self.remedy)


def _rebuild(kind: type[DeltaMemError], rule: str, got: object, remedy: str) -> DeltaMemError:
    return kind(rule, got=got, remedy=remedy)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


class ConfigError(DeltaMemError, ValueError):
    """A configuration value breaks its rule."""


class StateError(DeltaMemError, ValueError):
    """A memory does not fit: wrong shape, dtype, batch, layer set or fingerprint."""


class FileFormatError(DeltaMemError, ValueError):
    """A file is corrupt, truncated, of another format, or has missing or extra keys."""


class ModelNotFoundError(DeltaMemError, FileNotFoundError):
    """A model or adapter folder is not there."""


class DataNotFoundError(DeltaMemError, FileNotFoundError):
    """A file of training or evaluation data is not there."""


class UnsupportedModelError(DeltaMemError, ValueError):
    """This architecture, or this way of running it, cannot carry a δ-mem."""


class BoundaryError(DeltaMemError, ValueError):
    """Message boundaries are needed to write and are not known."""


class MemoryFileNotFoundError(DeltaMemError, FileNotFoundError):
    """There is no saved memory at this path."""


class ParallelMemoryError(DeltaMemError, RuntimeError):
    """Two branches of one superstep wrote one memory, and no merge policy was chosen."""


class ThreadHistoryError(DeltaMemError, LookupError):
    """A thread, or the part of its past that an operation needs, is not there."""


class MessageError(DeltaMemError, ValueError):
    """A message, a conversation or a tool definition that the model cannot be given."""


class DivergenceError(DeltaMemError, ValueError):
    """The history that was sent and the messages that the memory holds disagree."""


class ContextWindowError(DeltaMemError, ValueError):
    """A prompt is longer than the window that the model may see."""


class QueueFullError(DeltaMemError, RuntimeError):
    """More requests wait for the model than its queue holds."""


class GenerationTimeoutError(DeltaMemError, TimeoutError):
    """A generation took longer than its `timeout`."""


class FactStoreError(DeltaMemError, ValueError):
    """A fact store was asked for what it must not or cannot do; nothing was changed."""


class StorageError(DeltaMemError, RuntimeError):
    """The checkpoint database refused an operation; nothing of it was kept."""


class CorruptStorageError(StorageError, ValueError):
    """A database, or a row of it, is not what the saver wrote: damaged, truncated or foreign."""


class SchemaVersionError(StorageError):
    """The database was written by a newer version, or its tables are of somebody else."""


class StorageFullError(StorageError, OSError):
    """The database has no room left; what was stored before is whole."""


class StorageBusyError(StorageError, TimeoutError):
    """Another writer held the database for longer than the time-out."""


class ReadOnlyStorageError(StorageError, PermissionError):
    """The database cannot be written to."""


class ConnectionLostError(StorageError, ConnectionError):
    """The database could not be reached, or the connection to it broke during an operation."""


class ConflictError(StorageError):
    """Another writer has taken over this thread; nothing of the stale write was stored."""


class MissingThreadError(DeltaMemError, ValueError):
    """A config without a thread id."""


class IdentifierError(DeltaMemError, ValueError):
    """A thread id, namespace, checkpoint id, task id or channel name that cannot be a key."""


class SerializationError(DeltaMemError, TypeError):
    """A value of the graph's state, or of its metadata, that cannot be stored."""


class EncryptionError(StorageError, ValueError):
    """A wrong key, or a row that is plain where it must be encrypted (or the reverse)."""


class DatabaseNotFoundError(DeltaMemError, FileNotFoundError):
    """There is no database at this path, and none was asked to be made."""
