"""Vectors of R numbers for Numba code: what `kernels_cpu` is written in.

Numba compiles loops over single numbers, and what LLVM makes of a loop of 8 is three times slower
than 8 lanes in one register. A value of the type `Lanes` is such a register. A matrix is kept by
columns, [R, R] with column j holding entry j of every row, so that a product with a vector is R
fused multiply-adds and nothing is summed across a register.

In docstrings: `at` is an index tuple of all axes but the last, `states` an array [N, R, R] of
matrices kept by columns, the last axis contiguous everywhere.

Numba's disk cache looks at the file of the loop it compiled, not at this one: after a change here,
delete the `__pycache__` of this folder.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

_FLOAT = ir.FloatType()


class Lanes(types.Type):  # type: ignore[misc]
    """The type of a vector of `count` float32."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"Lanes({count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.count))


def _arithmetic(symbol: Any, instruction: str) -> None:
    """Make `symbol` work between two vectors, entry by entry."""

    @infer_global(symbol)
    class _Elementwise(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(symbol, Lanes, Lanes)  # type: ignore[untyped-decorator]
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def fill(typing: Any, number: Any, rank: Any) -> Any:
    """Lanes of `rank` entries, all of them `number`; `rank` is a constant, or a vector as long."""
    if not isinstance(rank, (types.IntegerLiteral, Lanes)):
        return None
    kind = rank if isinstance(rank, Lanes) else Lanes(rank.literal_value)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_FLOAT, kind.count)
        value = builder.fptrunc(args[0], _FLOAT)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _index(0))
        return _spread(builder, one, 0)

    return kind(types.float64, rank), emit


@intrinsic  # type: ignore[untyped-decorator]
def get(typing: Any, array: Any, at: Any, like: Any) -> Any:
    """The lanes at `array[at]`; `like` is any vector of the same size."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _address(context, builder, sig.args[0], args[0], args[1])
        return builder.load(_vector(builder, place, 0, like.count), align=4)

    return like(array, at, like), emit


@intrinsic  # type: ignore[untyped-decorator]
def put(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """`array[at] = lanes`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _address(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], _vector(builder, place, 0, lanes.count), align=4)
        return context.get_dummy_value()

    return types.void(array, at, lanes), emit


@intrinsic  # type: ignore[untyped-decorator]
def times(typing: Any, states: Any, at: Any, lanes: Any) -> Any:
    """Matrix `states[at]` times a vector."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        columns = _columns(context, builder, sig.args[0], args[0], args[1], lanes.count)
        parts = [
            builder.fmul(builder.load(column, align=4), _spread(builder, args[2], j))
            for j, column in enumerate(columns)
        ]
        return _sum(builder, parts)

    return lanes(states, at, lanes), emit


@intrinsic  # type: ignore[untyped-decorator]
def transposed_times(typing: Any, states: Any, at: Any, lanes: Any) -> Any:
    """The transpose of matrix `states[at]` times a vector: here sums do cross the register."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        columns = _columns(context, builder, sig.args[0], args[0], args[1], lanes.count)
        kind = ir.VectorType(_FLOAT, lanes.count)
        across = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_FLOAT, [_FLOAT, kind]),
            f"llvm.vector.reduce.fadd.v{lanes.count}f32",
        )
        result = ir.Constant(kind, ir.Undefined)
        for j, column in enumerate(columns):
            product = builder.fmul(builder.load(column, align=4), args[2])
            total = builder.call(across, [_FLOAT(-0.0), product], fastmath=("reassoc", "nsz"))
            result = builder.insert_element(result, total, _index(j))
        return result

    return lanes(states, at, lanes), emit


@intrinsic  # type: ignore[untyped-decorator]
def row_products(typing: Any, one: Any, at: Any, other: Any, other_at: Any, like: Any) -> Any:
    """Row by row, the scalar product of two matrices."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left = _columns(context, builder, sig.args[0], args[0], args[1], like.count)
        right = _columns(context, builder, sig.args[2], args[2], args[3], like.count)
        parts = [
            builder.fmul(builder.load(a, align=4), builder.load(b, align=4))
            for a, b in zip(left, right, strict=True)
        ]
        return _sum(builder, parts)

    return like(one, at, other, other_at, like), emit


@intrinsic  # type: ignore[untyped-decorator]
def scale_and_add(
    typing: Any, new: Any, new_at: Any, old: Any, old_at: Any, scale: Any, left: Any, right: Any
) -> Any:
    """`new[new_at] = diag(scale) old[old_at] + left right^T`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        targets = _columns(context, builder, sig.args[0], args[0], args[1], scale.count)
        sources = _columns(context, builder, sig.args[2], args[2], args[3], scale.count)
        for j, (target, source) in enumerate(zip(targets, sources, strict=True)):
            stays = builder.fmul(args[4], builder.load(source, align=4))
            comes = builder.fmul(args[5], _spread(builder, args[6], j))
            builder.store(builder.fadd(stays, comes), target, align=4)
        return context.get_dummy_value()

    return types.void(new, new_at, old, old_at, scale, left, right), emit


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Byte address of `array[at]`, as an integer."""
    view = context.make_array(kind)(context, builder, array)
    strides = cgutils.unpack_tuple(builder, view.strides, kind.ndim)
    place = builder.ptrtoint(view.data, strides[0].type)
    for number, stride in zip(cgutils.unpack_tuple(builder, at), strides, strict=False):
        place = builder.add(place, builder.mul(number, stride))
    return place


def _columns(context: Any, builder: Any, kind: Any, array: Any, at: Any, count: int) -> list[Any]:
    """Pointers to the columns of matrix `array[at]`."""
    place = _address(context, builder, kind, array, at)
    return [_vector(builder, place, j, count) for j in range(count)]


def _vector(builder: Any, place: Any, number: int, count: int) -> Any:
    place = builder.add(place, place.type(number * count * 4))
    return builder.inttoptr(place, ir.VectorType(_FLOAT, count).as_pointer())


def _spread(builder: Any, lanes: Any, number: int) -> Any:
    """Entry `number` in every lane."""
    count = lanes.type.count
    return builder.shuffle_vector(
        lanes, lanes, ir.Constant(ir.VectorType(ir.IntType(32), count), [number] * count)
    )


def _sum(builder: Any, parts: list[Any]) -> Any:
    """Pairwise, so that the additions do not wait for one another."""
    while len(parts) > 1:
        pairs = [builder.fadd(*parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


def _index(number: int) -> Any:
    return ir.Constant(ir.IntType(32), number)
