"""The memory as a value: what a turn takes in and what it gives back.

A `MemoryState` never changes after it is made. Its arrays are views of `bytes`, so that not even
`setflags(write=True)` opens them; who needs to compute with them copies (`state.state.copy()`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltamem_agents.core.checks import count, same_keys, sealed
from deltamem_agents.errors import StateError

_HEX = re.compile(r"[0-9a-f]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Ledger:
    """Which messages the memory has read, as digests; it never holds text.

    Attributes:
        evicted: rolling digest (hex) of the messages read and gone from the window; "" for none.
        evicted_count: how many those are.
        visible: digests (hex) of the messages still visible, oldest first; index 0 is the first
            one after the boundary.
        pinned: digest (hex) of system prompt and tools as written; "" for none.
    """

    evicted: str = ""
    evicted_count: int = 0
    visible: tuple[str, ...] = ()
    pinned: str = ""

    def __post_init__(self) -> None:
        visible: object = self.visible
        if not isinstance(visible, (tuple, list)):
            raise StateError(
                "visible digests come as a tuple",
                got=type(visible).__name__,
                remedy="Pass a tuple of digests, or ().",
            )
        object.__setattr__(self, "visible", tuple(visible))
        object.__setattr__(self, "evicted_count", count("evicted_count", self.evicted_count))
        for digest in (*self.visible, self.evicted or "0", self.pinned or "0"):
            if not isinstance(digest, str) or not _HEX.fullmatch(digest):
                raise StateError(
                    "a digest is lower-case hex",
                    got=digest,
                    remedy="Take those of another memory's ledger.",
                )
        if bool(self.evicted) != bool(self.evicted_count):
            raise StateError(
                "an evicted digest and an evicted count above 0 come together",
                got=(self.evicted, self.evicted_count),
                remedy="Pass both, or leave both out.",
            )


@dataclass(frozen=True)
class MemoryDiff:
    """How far `MemoryState.diff` found two memories apart.

    Attributes:
        norm: Frobenius norm of the difference of the two states.
        largest: largest absolute difference of an entry.
        layer_norms: the norm of each layer's difference.
        tokens: tokens written by the later memory minus those written by the earlier.
        same_ledger: whether both have read the same messages.
    """

    norm: float
    largest: float
    layer_norms: tuple[float, ...]
    tokens: int
    same_ledger: bool


@dataclass(frozen=True, eq=False, repr=False)
class _Fields:
    """Tracers write a dataclass field by field (megabytes of numbers), and its heirs by `repr`."""

    state: NDArray[np.float32]
    boundary_state: NDArray[np.float32]
    ledger: Ledger
    tokens_written: int
    fingerprint: str

    def __post_init__(self) -> None: ...


class MemoryState(_Fields):
    """A δ-mem memory between two turns. Immutable; equal by value.

    Attributes:
        state: float32 [layers with memory, state heads, rank, rank], the memory now. Read-only.
        boundary_state: the same, as it was at the first visible token; a cold process replays
            the window from here. Read-only.
        ledger: which messages were read.
        tokens_written: tokens written since the memory was empty.
        fingerprint: sha256 (hex) of what made it: adapter, backbone, tokenizer, template and write
            policy.

    Raises:
        StateError: an array of another dtype or shape than above, or with NaN or infinity in it;
            a count below 0; a digest that is not hex.
    """

    def __post_init__(self) -> None:
        # A serializer may hand the nested value back as the mapping of its fields.
        ledger: object = self.ledger
        if isinstance(ledger, Mapping):
            object.__setattr__(self, "ledger", _ledger_from(ledger))
        elif not isinstance(ledger, Ledger):
            raise StateError(
                "ledger is a Ledger", got=type(ledger).__name__, remedy="Pass Ledger()."
            )
        for name in ("state", "boundary_state"):
            object.__setattr__(self, name, sealed(name, getattr(self, name)))
        if self.state.shape != self.boundary_state.shape:
            raise StateError(
                "state and boundary_state have one shape",
                got=(self.state.shape, self.boundary_state.shape),
                remedy="Pass two states of one adapter.",
            )
        object.__setattr__(self, "tokens_written", count("tokens_written", self.tokens_written))
        if not isinstance(self.fingerprint, str) or not _SHA256.fullmatch(self.fingerprint):
            raise StateError(
                "fingerprint is a sha256 in lower-case hex",
                got=self.fingerprint,
                remedy="Take the one of the model or the memory that it stands for.",
            )

    @property
    def norm(self) -> float:
        """Frobenius norm of the state over all layers."""
        return _norm(self.state)

    @property
    def layer_norms(self) -> tuple[float, ...]:
        """Frobenius norm of each layer's state."""
        return tuple(_norm(layer) for layer in self.state)

    @property
    def nbytes(self) -> int:
        """Bytes of the two arrays; does not grow with the conversation."""
        return self.state.nbytes + self.boundary_state.nbytes

    def describe(self) -> dict[str, Any]:
        """What can be told of the memory without its matrix, ready for JSON."""
        layers, heads, rank, _ = self.state.shape
        return {
            "layers": layers,
            "heads": heads,
            "rank": rank,
            "bytes": self.nbytes,
            "tokens_written": self.tokens_written,
            "messages_visible": len(self.ledger.visible),
            "messages_evicted": self.ledger.evicted_count,
            "norm": self.norm,
            "largest": float(np.abs(self.state).max()),
            "layer_norms": list(self.layer_norms),
            "fingerprint": self.fingerprint,
        }

    def diff(self, other: MemoryState) -> MemoryDiff:
        """How this memory differs from an earlier one of the same adapter.

        Raises:
            StateError: the two have different fingerprints or shapes.
        """
        if self.fingerprint != other.fingerprint or self.state.shape != other.state.shape:
            raise StateError(
                "only memories of one adapter can be compared",
                got=(repr(self), repr(other)),
                remedy="Compare states whose fingerprint and shape are equal.",
            )
        change = self.state.astype(np.float64) - other.state
        return MemoryDiff(
            norm=_norm(change),
            largest=float(np.abs(change).max()),
            layer_norms=tuple(_norm(layer) for layer in change),
            tokens=self.tokens_written - other.tokens_written,
            same_ledger=self.ledger == other.ledger,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the memory as a safetensors file, whole or not at all."""
        from deltamem_agents.core.codec import save_file

        save_file(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> MemoryState:
        """Read what `save` wrote.

        Raises:
            MemoryFileNotFoundError: nothing is there.
            FileFormatError: the file is damaged, or is not a saved memory.
        """
        from deltamem_agents.core.codec import load_file

        return load_file(path)

    def header(self) -> dict[str, Any]:
        """All that is not an array, ready for JSON; `from_header` is its inverse."""
        ledger = {field.name: getattr(self.ledger, field.name) for field in fields(Ledger)}
        return {
            "shape": list(self.state.shape),
            "ledger": ledger | {"visible": list(self.ledger.visible)},
            "tokens_written": self.tokens_written,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_header(
        cls,
        header: Mapping[str, Any],
        state: NDArray[np.float32],
        boundary_state: NDArray[np.float32],
    ) -> MemoryState:
        """Put a memory together from `header()` and its arrays.

        Raises:
            StateError: keys are missing or unknown, or a value breaks its rule.
        """
        same_keys(header, {"shape", "ledger", "tokens_written", "fingerprint"}, "header")
        if list(state.shape) != header["shape"]:
            raise StateError(
                "the arrays have the header's shape",
                got=state.shape,
                remedy="Pass the two arrays that were kept with it.",
            )
        return cls(
            state=state,
            boundary_state=boundary_state,
            ledger=_ledger_from(header["ledger"]),
            tokens_written=header["tokens_written"],
            fingerprint=header["fingerprint"],
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MemoryState):
            return NotImplemented
        return (
            self.fingerprint == other.fingerprint
            and self.tokens_written == other.tokens_written
            and self.ledger == other.ledger
            and np.array_equal(self.state, other.state)
            and np.array_equal(self.boundary_state, other.boundary_state)
        )

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.tokens_written, self.ledger, self.state.shape))

    def __repr__(self) -> str:
        layers, heads, rank, _ = self.state.shape
        return (
            f"MemoryState(layers={layers}, heads={heads}, rank={rank}, "
            f"tokens_written={self.tokens_written}, visible={len(self.ledger.visible)}, "
            f"evicted={self.ledger.evicted_count}, norm={self.norm:.4g}, "
            f"fingerprint={self.fingerprint[:12]})"
        )

    def _repr_html_(self) -> str:
        from deltamem_agents.core.heat_map import memory_html

        return memory_html(self)

    def __copy__(self) -> MemoryState:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryState:
        return self  # nothing in it can change

    def __reduce__(self) -> tuple[Any, ...]:
        values = (self.state, self.boundary_state, self.ledger)
        return MemoryState, (*values, self.tokens_written, self.fingerprint)


def _ledger_from(values: object) -> Ledger:
    if not isinstance(values, Mapping):
        raise StateError(
            "a ledger is a mapping of its fields",
            got=type(values).__name__,
            remedy="Pass what `header()` gave.",
        )
    same_keys(values, {field.name for field in fields(Ledger)}, "ledger")
    return Ledger(**values)


def _norm(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).sum()))
