"""The states of one batch of sessions, as they ride in a cache; nothing here knows a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltamem_agents.adapter.history import TAIL, History, Left
from deltamem_agents.adapter.segments import Sums
from deltamem_agents.errors import StateError


@dataclass(frozen=True)
class Plan:
    """Which states a model has: layer indices, state heads, rank; and by which adapter."""

    layers: tuple[int, ...]
    heads: int
    rank: int
    adapter: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[layers with memory, H, R, R]."""
        return (len(self.layers), self.heads, self.rank, self.rank)


@dataclass(frozen=True, eq=False)
class WriteRecord:
    """The gates of one call in one layer, with their gradient.

    Args:
        layer: index of the decoder layer.
        beta: write gate in (0, 1): [B, T, H, R]; for segment writes [B, M, H, R], one a segment.
        keep: what is kept of the state, the same shape.
        written: Bool[B, T] (or [B, M]): whether the token (segment) was written.
    """

    layer: int
    beta: Tensor
    keep: Tensor
    written: Tensor


class MemoryStore:
    """States fp32 [B, H, R, R] by layer; empty means zero, of whatever batch comes first."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.states: dict[int, Tensor] = {}
        self.sums: dict[int, Sums] = {}
        self.records: list[WriteRecord] = []
        self.history = History()
        #: Kinds of cache layers that a failed call has left in the middle; see `rollback`.
        self.torn: tuple[str, ...] = ()
        #: Tokens among the keys and values that this memory rides with; None where nobody counts.
        self.length: int | None = 0

    @property
    def batch(self) -> int | None:
        """Number of sessions; None while the memory is empty and takes any."""
        return next((len(state) for state in self.states.values()), None)

    def refuse_torn(self) -> None:
        """Refuse to go on with keys and values that a failed call has left in the middle.

        Raises:
            StateError: they could not be put back, or not wholly.
        """
        if self.torn:
            raise StateError(
                "all layers of a cache have read the same tokens",
                got=f"after a call that failed, some of {', '.join(self.torn)}",
                remedy="The memory is as it was before that call. Call cache.drop_kv() and read "
                "again what is to be seen, with MemoryCall(write=False).",
            )

    def refuse_gap(self, length: int) -> None:
        """Refuse to go on with keys and values of tokens that did not come past this memory.

        Args:
            length: tokens that the cache holds.

        Raises:
            StateError: they are not as many as when it was last seen.
        """
        if self.length is not None and self.length != length:
            raise StateError(
                f"a memory has come past every token of its cache, {self.length}",
                got=length,
                remedy="Some were read while the adapter was off, or cropped behind its back. Call "
                "cache.crop_kv(n) to take n of them away, or cache.drop_kv(), and read them again.",
            )

    def get(self, layer: int, batch: int, device: torch.device) -> Tensor:
        """The state of a layer, [batch, H, R, R].

        Raises:
            StateError: the batch differs from the state's.
        """
        state = self.states.get(layer)
        if state is None:
            size = (batch, self.plan.heads, self.plan.rank, self.plan.rank)
            return torch.zeros(size, device=device, dtype=torch.float32)
        if state.shape[0] != batch:
            raise StateError(
                f"the memory's batch equals the input's, {batch}",
                got=int(state.shape[0]),
                remedy="Give one state a row. `generate` repeats memories for beams and samples by "
                "itself; in a cache that holds tokens, cache.batch_repeat_interleave(n) does.",
            )
        return state if state.device == device else state.to(device)

    def after(self, left: Mapping[int, Left], records: list[WriteRecord] | None) -> MemoryStore:
        """Another store, as this one is after a call; this one does not change.

        Args:
            left: by layer its state, with how to go back if that can be remembered, and its open
                segments.
            records: of the call, or None to keep those there are.
        """
        other = self._copy()
        for layer, (state, _, sums) in left.items():
            other._set(layer, state, sums)
        if records is not None:
            other.records = records
        other.history = self.history.with_call(left, len(self.plan.layers))
        return other

    def memory(self) -> Tensor | None:
        """All states, [B, layers, H, R, R], or None while they are zero."""
        if not self.states:
            return None
        return torch.stack([self.states[layer] for layer in self.plan.layers], dim=1)

    def memory_before(self, tokens: int) -> Tensor:
        """All states as they were before the newest tokens; nothing changes.

        Raises:
            StateError: they were not remembered.
        """
        memory = self.earlier(tokens).memory()
        return torch.zeros(1, *self.plan.shape, dtype=torch.float32) if memory is None else memory

    def set_memory(self, memory: Tensor) -> None:
        """Replace all states by [B, layers, H, R, R]; the autograd graph is kept.

        Raises:
            StateError: wrong shape, not float32, or not finite.
        """
        check_memory(memory, self.plan)
        self.states = dict(zip(self.plan.layers, memory.unbind(1), strict=True))
        self.forget_history()

    def repeated(self, repeats: int) -> MemoryStore:
        """Another store, in which each session has `repeats` rows; this one does not change."""
        other = self._copy()
        other.map(lambda held: held.repeat_interleave(repeats, 0))
        return other

    def become(self, other: MemoryStore) -> None:
        """Hold what another store holds, which is not used any more: all of it at once.

        One call into C, which no interrupt comes in the middle of.
        """
        self.__dict__.update(other.__dict__)

    def _copy(self) -> MemoryStore:
        """The same memories without their history."""
        other = MemoryStore(self.plan)
        other.states, other.sums, other.records = dict(self.states), dict(self.sums), self.records
        other.length = self.length
        return other

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which gets no history: how to go back is known to layers alone."""
        return self.__dict__ | {"history": History()}

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryStore:
        other = MemoryStore(self.plan)
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def map(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a change of the batch dimension to everything held."""
        self.states = {layer: change(state) for layer, state in self.states.items()}
        self.sums = {layer: (change(s), change(n)) for layer, (s, n) in self.sums.items()}
        self.forget_history()

    def clear(self) -> None:
        """Back to zero, of whatever batch comes next."""
        self.states.clear()
        self.sums.clear()
        self.records = []
        self.forget_history()

    def forget_history(self) -> None:
        """Give up rolling back beyond this point."""
        self.history = History()

    def earlier(self, tokens: int) -> MemoryStore:
        """Another store, as this one was before the newest tokens; this one does not change.

        Raises:
            StateError: they were not remembered.
        """
        if tokens == 0 or not self.states:
            return self
        if self.history.tokens < tokens:
            raise StateError(
                f"the newest tokens can be taken back from a memory: those of the last call, "
                f"at most {TAIL} of a long one, nothing across a change of the batch",
                got=tokens,
                remedy="Keep cache.memory from before those tokens, assign it, and crop_kv.",
            )
        earlier = self._copy()
        earlier.history, states = self.history.without(tokens)
        for layer, (state, sums) in states.items():
            earlier._set(layer, state, sums)
        return earlier

    def _set(self, layer: int, state: Tensor, sums: Sums | None) -> None:
        self.states[layer] = state
        if sums is None:
            self.sums.pop(layer, None)
        else:
            self.sums[layer] = sums


def check_memory(memory: Tensor, plan: Plan) -> None:
    """Refuse a memory that does not fit.

    Raises:
        StateError: wrong shape, not float32, or not finite.
    """
    if not isinstance(memory, Tensor) or memory.dim() != 5 or memory.shape[1:] != plan.shape:
        got = tuple(memory.shape) if isinstance(memory, Tensor) else type(memory).__name__
        raise StateError(
            f"a memory has the shape [batch, {', '.join(map(str, plan.shape))}] "
            "(batch, layers with memory, state heads, rank, rank)",
            got=got,
            remedy="Use the adapter that wrote it, or start from an empty memory.",
        )
    if memory.dtype != torch.float32:
        raise StateError("a memory is float32", got=memory.dtype, remedy="Call .float() on it.")
    if not bool(torch.isfinite(memory.detach()).all()):
        raise StateError(
            "a memory is finite",
            got="NaN or infinity in it",
            remedy="Go on from an earlier memory, or from an empty one.",
        )


def stack_memories(memories: Sequence[object], plan: Plan) -> Tensor:
    """A batch from one memory a session: arrays or tensors [layers, H, R, R], or `MemoryState`s.

    Raises:
        StateError: one does not fit.
    """
    return torch.stack(list(_each(memories, plan)))


def _each(memories: Sequence[object], plan: Plan) -> Iterator[Tensor]:
    marks = {mark for each in memories if (mark := getattr(each, "fingerprint", None)) is not None}
    if len(marks) > 1:
        raise StateError(
            "the memories of a batch are of one adapter, backbone, tokenizer and template",
            got=f"{len(marks)} different fingerprints",
            remedy="Give each its own batch, with the model that it belongs to.",
        )
    if not memories:
        raise StateError(
            "a batch has at least one memory", got=0, remedy="Pass one memory for each session."
        )
    for memory in memories:
        value = getattr(memory, "state", memory)
        tensor = value if isinstance(value, Tensor) else torch.tensor(value)
        if tensor.shape != plan.shape:
            raise StateError(
                f"a session's memory has the shape {list(plan.shape)} "
                "(layers with memory, state heads, rank, rank)",
                got=tuple(tensor.shape),
                remedy="Use the adapter that wrote it, or start from an empty memory.",
            )
        yield tensor
