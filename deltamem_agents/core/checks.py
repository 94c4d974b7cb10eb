"""What the parts of a memory must be: arrays, counts and keys."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltamem_agents.errors import StateError


def sealed(name: str, value: object) -> NDArray[np.float32]:
    """An own copy of [layers, heads, rank, rank] that nobody can write to.

    Raises:
        StateError: it is no float32 array, of another shape, or not finite.
    """
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        raise StateError(
            f"{name} is a float32 numpy array",
            got=value.dtype if isinstance(value, np.ndarray) else type(value).__name__,
            remedy="Pass numpy.asarray(..., dtype=numpy.float32).",
        )
    shape = value.shape
    if len(shape) != 4 or min(shape) < 1 or shape[2] != shape[3]:
        raise StateError(
            f"{name} has the shape [layers, heads, rank, rank]",
            got=shape,
            remedy="Pass a square matrix for each layer and state head.",
        )
    if not np.isfinite(value).all():
        raise StateError(
            f"{name} is finite",
            got="NaN or infinity in it",
            remedy="Go on from an earlier memory, or from an empty one.",
        )
    native = np.ascontiguousarray(value, dtype=np.float32)
    return np.frombuffer(native.tobytes(), dtype=np.float32).reshape(shape)


def count(name: str, value: object) -> int:
    """A whole number of at least 0.

    Raises:
        StateError: it is something else.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise StateError(
            f"{name} is a whole number of at least 0", got=value, remedy="Pass 0 for none."
        )
    return number


def same_keys(values: Mapping[str, Any], wanted: set[str], what: str) -> None:
    """Refuse missing and unknown keys.

    Raises:
        StateError: the keys are others.
    """
    if set(values) != wanted:
        raise StateError(
            f"a {what} has the keys {sorted(wanted)}",
            got=sorted(map(str, values)),
            remedy="It is damaged, or of a later version: restore it, or update deltamem-agents.",
        )
