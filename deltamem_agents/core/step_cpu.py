"""One decode step on a CPU in compiled code, called with raw addresses.

The arithmetic takes microseconds; what counts is the way there. So the functions are called through
ctypes (no array objects), and they keep the Global Interpreter Lock, because getting that back
could take longer than the step. `step_cpu` is `memory_step`; `LayerStep` is a layer's whole part in
a decode step, the two matrices around `memory_step` included.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba import carray, float32, int64, types, uint16, uint32
from numba.extending import register_jitable
from torch import Tensor

from deltamem_agents.errors import StateError

if TYPE_CHECKING:
    from deltamem_agents.core.step import StepRule

_Native = Callable[..., None]

_SMALLEST_NORM = 1e-6
_NORMALIZE, _ONE_A_ROW, _COUPLED, _KEEP_ALL, _LAMBDA_OUTSIDE = 1, 2, 4, 8, 16
_LOCK = Lock()


def step_cpu(
    projected: Tensor, state: Tensor, rule: StepRule, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`core.step.memory_step` by the compiled function; arguments and result as there."""
    batch, heads, rank = projected.shape[0], rule.heads, rule.rank
    projected, state = projected.contiguous(), state.contiguous()
    reads = torch.empty(batch, heads, rank, dtype=torch.float32)
    after = torch.empty(batch, heads, rank, rank, dtype=torch.float32)
    scratch = torch.empty(2 * rank, dtype=torch.float32)
    _native("step")(
        projected.data_ptr(), state.data_ptr(), reads.data_ptr(), after.data_ptr(),
        scratch.data_ptr(), batch, heads, rank, rule.width, _options(rule), scale,
    )  # fmt: skip
    return reads, after


class LayerStep:
    """A layer's part in decoding one token: hidden states in, corrections and memory out.

    Letters as in `core.step.StepRule`; d hidden width, O the widths of all corrections together.

    Args:
        inward: packed projections, float32 [rule.width, d]; kept, and read where they lie.
        bias: float32 [rule.width].
        outward: packed output projections, float32 [O, S].
        rule: how the projection is read.
        scale: factor on the reads.
    """

    def __init__(
        self, inward: Tensor, bias: Tensor, outward: Tensor, rule: StepRule, scale: float
    ) -> None:
        self._weights = (inward, bias, outward)  # the addresses hold as long as these live
        self._shape = (rule.heads, rule.rank, rule.rank)
        self.hidden, self.width = inward.shape[1], outward.shape[0]
        self.scratch = self.hidden + rule.width + 2 * rule.rank + outward.shape[1]
        self._fixed = (
            *(weight.data_ptr() for weight in self._weights),
            rule.heads, rule.rank, rule.width, self.hidden, self.width, _options(rule), scale,
        )  # fmt: skip

    def bind(
        self, before: Tensor, after: Tensor, result: Tensor, scratch: Tensor
    ) -> Callable[[int], None]:
        """Equations 4-12 for one token a session, as a function of the hidden states' address.

        Args:
            before: the memory before the token, float32 [B, H, R, R]; it is left alone.
            after: of the same shape; the function writes the memory after the token to it.
            result: [B, 1, O]; the function writes the corrections to it.
            scratch: float32 [`self.scratch`]; several steps that run in turn may share it.

        Returns:
            a function of the address of hidden states [B, 1, d], contiguous and of the dtype of
            `result`. It holds no reference to them, but to all of the above.

        Raises:
            StateError: a shape, dtype or device is not as above, or a tensor is not contiguous.
        """
        batch, given = result.shape[0], (before, after, result, scratch)
        shapes = ((batch, *self._shape),) * 2 + ((batch, 1, self.width), (self.scratch,))
        if (
            tuple(x.shape for x in given) != shapes
            or result.dtype not in (torch.float32, torch.bfloat16)
            or any(x.dtype != torch.float32 for x in (before, after, scratch))
            or not all(x.is_cpu and x.is_contiguous() for x in given)
        ):
            raise StateError(
                f"a decode step takes contiguous tensors on the CPU, of the shapes {shapes}, all "
                "float32 but for the third, which may be bfloat16",
                got=[(tuple(x.shape), x.dtype, str(x.device)) for x in given],
                remedy="Call .contiguous(), .float() or .cpu() on the one that differs.",
            )
        addresses = tuple(x.data_ptr() for x in given)
        half = result.dtype == torch.bfloat16
        bound = partial(_native("layer"), *self._fixed, *addresses, batch, half)
        bound.keeps = (self, *given)  # type: ignore[attr-defined]
        return bound


@cache
def _options(rule: StepRule) -> int:
    flags = (
        (_NORMALIZE, rule.normalize),
        (_ONE_A_ROW, rule.gates == rule.heads * rule.rank),
        (_COUPLED, rule.coupled),
        (_KEEP_ALL, rule.update == "no_lambda"),
        (_LAMBDA_OUTSIDE, rule.update == "lambda_outside"),
    )
    return sum(bit for bit, on in flags if on)


def _native(name: str) -> _Native:
    with _LOCK:
        return _compiled(name)


@cache
def _compiled(name: str) -> _Native:
    floats, any_type = types.CPointer(float32), types.voidptr
    if name == "step":
        kinds = [floats] * 5 + [int64] * 5 + [float32]
    else:
        kinds = [floats] * 3 + [int64] * 6 + [float32, floats, floats, any_type, any_type]
        kinds += [int64, int64, any_type]
    function = _STEPS[name]
    options: dict[str, Any] = {"nopython": True, "error_model": "numpy"}
    try:
        made = numba.cfunc(types.void(*kinds), cache=True, **options)(function)
    except RuntimeError:  # there is no folder that Numba could keep it in
        made = numba.cfunc(types.void(*kinds), **options)(function)
    plain = {int64: ctypes.c_int64, float32: ctypes.c_float}
    arguments: list[Any] = [plain.get(kind, ctypes.c_void_p) for kind in kinds]
    native = ctypes.PYFUNCTYPE(None, *arguments)(made.address)
    native.keeps = made  # type: ignore[attr-defined]  # the code lives as long as this does
    return native


@register_jitable  # type: ignore[untyped-decorator]
def _sigmoid(x: Any) -> Any:
    return float32(1.0) / (float32(1.0) + math.exp(-x))


@register_jitable  # type: ignore[untyped-decorator]
def _direction(target: Any, source: Any, options: Any) -> None:
    """Equation 4: tanh, then length 1."""
    for j in range(target.shape[0]):
        target[j] = source[j]
    if options & _NORMALIZE:
        squares = float32(0.0)
        for j in range(target.shape[0]):
            target[j] = math.tanh(target[j])
            squares += target[j] * target[j]
        length = max(float32(math.sqrt(squares)), float32(_SMALLEST_NORM))
        for j in range(target.shape[0]):
            target[j] /= length


@register_jitable  # type: ignore[untyped-decorator]
def _gates(row: Any, place: Any, count: Any, options: Any) -> Any:
    """Equation 5: keep, erase and write from the gate at `place` of a row with `count` gates."""
    write = _sigmoid(row[place])
    keep = float32(1.0)
    if not options & _KEEP_ALL:
        keep = keep - write if options & _COUPLED else _sigmoid(row[place + count])
    return keep, keep * write if options & _LAMBDA_OUTSIDE else write, write


@register_jitable  # type: ignore[untyped-decorator]
def _session(
    row: Any, before: Any, reads: Any, after: Any, scratch: Any, options: int, scale: float
) -> None:
    """One session: row [rule.width], before and after [H, R, R], reads [S], scratch [2 R]."""
    heads, rank = before.shape[0], before.shape[1]
    width = heads * rank
    count = width if options & _ONE_A_ROW else heads
    query, key = scratch[:rank], scratch[rank:]
    for h in range(heads):
        first = h * rank
        _direction(query, row[first : first + rank], options)
        _direction(key, row[width + first : width + first + rank], options)
        for i in range(rank):
            place = 3 * width + (first + i if options & _ONE_A_ROW else h)
            keep, erase, write = _gates(row, place, count, options)
            answer = known = float32(0.0)
            for j in range(rank):
                answer += before[h, i, j] * query[j]
                known += before[h, i, j] * key[j]
            reads[first + i] = scale * answer
            change = write * row[2 * width + first + i] - erase * known
            for j in range(rank):
                after[h, i, j] = keep * before[h, i, j] + change * key[j]


def _step(
    projected_at: Any, before_at: Any, reads_at: Any, after_at: Any, scratch_at: Any,
    batch: int, heads: int, rank: int, columns: int, options: int, scale: float,
) -> None:  # fmt: skip
    projected = carray(projected_at, (batch, columns))
    before = carray(before_at, (batch, heads, rank, rank))
    reads = carray(reads_at, (batch, heads * rank))
    after = carray(after_at, (batch, heads, rank, rank))
    scratch = carray(scratch_at, (2 * rank,))
    for b in range(batch):
        _session(projected[b], before[b], reads[b], after[b], scratch, options, scale)


@numba.njit(fastmath={"reassoc", "contract"}, error_model="numpy")  # type: ignore[untyped-decorator]
def _dot(one: Any, two: Any) -> Any:
    """A sum in any order, so that it can be done in whole registers."""
    total = float32(0.0)
    for i in range(one.shape[0]):
        total += one[i] * two[i]
    return total


@register_jitable  # type: ignore[untyped-decorator]
def _rounded(bits: Any) -> Any:
    """The upper half of a float32, as bfloat16 rounds it: to nearest, ties to even."""
    if bits & uint32(0x7FFFFFFF) > uint32(0x7F800000):
        return uint16(0x7FC0)
    return uint16((bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16))


def _layer(
    inward_at: Any, bias_at: Any, outward_at: Any, heads: int, rank: int, columns: int,
    hidden_width: int, width: int, options: int, scale: float, before_at: Any, after_at: Any,
    result_at: Any, scratch_at: Any, batch: int, half: int, hidden_at: Any,
) -> None:  # fmt: skip
    size = heads * rank
    inward, bias = carray(inward_at, (columns, hidden_width)), carray(bias_at, (columns,))
    outward = carray(outward_at, (width, size))
    before = carray(before_at, (batch, heads, rank, rank))
    after = carray(after_at, (batch, heads, rank, rank))
    length = hidden_width + columns + 2 * rank + size
    scratch, bits = carray(scratch_at, length, np.float32), carray(scratch_at, length, np.uint32)
    full = carray(hidden_at, (batch, hidden_width), np.float32)
    halves = carray(hidden_at, (batch, hidden_width), np.uint16)
    full_result = carray(result_at, (batch, width), np.float32)
    half_result = carray(result_at, (batch, width), np.uint16)
    x = scratch[:hidden_width]
    row = scratch[hidden_width : hidden_width + columns]
    unit, reads = scratch[hidden_width + columns : length - size], scratch[length - size :]
    for b in range(batch):
        for i in range(hidden_width):
            if half:
                bits[i] = uint32(halves[b, i]) << uint32(16)
            else:
                x[i] = full[b, i]
        for i in range(columns):
            row[i] = bias[i] + _dot(inward[i], x)
        _session(row, before[b], reads, after[b], unit, options, scale)
        for i in range(width):
            answer = _dot(outward[i], reads)
            if half:
                scratch[0] = answer
                half_result[b, i] = _rounded(bits[0])
            else:
                full_result[b, i] = answer


_STEPS: dict[str, Callable[..., None]] = {"step": _step, "layer": _layer}
