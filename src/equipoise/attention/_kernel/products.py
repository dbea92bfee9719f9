"""A traced program with its matrix products in the layout that CPUs multiply fast.

The transpose of a product sums over rows of both operands. XLA on CPU hands such a product to a
routine of half the speed; a transposed copy of the smaller operand makes it an ordinary one. The
copy costs more than it saves where the sum is short.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from equipoise._jax.evaluation import bind, run
from equipoise._jax.programs import ClosedProgram, Equation, Value, plain_call
from equipoise._types import Array
from equipoise.attention._kernel.grid import is_named

_LONG = 256
_Pair: TypeAlias = tuple[Sequence[int], Sequence[int]]


def evaluate(program: ClosedProgram, *operands: Value) -> list[Array]:
    """The values of the program, its products laid out."""
    return run(program, operands, _apply)


def _apply(equation: Equation, operands: list[Array]) -> Sequence[Array]:
    if equation.primitive is lax.dot_general_p:
        return [_product(*operands, **equation.params)]
    # Nothing differentiates this any more, so calls with rules of their own are just calls.
    inner = plain_call(equation)
    return bind(equation, operands) if inner is None else evaluate(inner, *operands)


def _product(
    a: Array, b: Array, *, dimension_numbers: tuple[_Pair, _Pair], **params: object
) -> Array:
    (sum_a, sum_b), (batch_a, batch_b) = dimension_numbers
    summed = [len(axes) == 1 and axes[0] < x.ndim - 1 for axes, x in ((sum_a, a), (sum_b, b))]
    if not all(summed) or _order([a.shape[sum_a[0]]]) < (0, _LONG):
        return _multiplied(a, b, dimension_numbers, **params)
    if _order(a.shape) > _order(b.shape):
        out = _product(b, a, dimension_numbers=((sum_b, sum_a), (batch_b, batch_a)), **params)
        batch, free = len(batch_a), b.ndim - 1
        order = (*range(batch), *range(free, out.ndim), *range(batch, free))
        return jnp.transpose(out, order)
    # Without the barriers XLA would fold these transposes, and those that follow, into the product.
    (axis,) = sum_a
    turned = _barrier(jnp.moveaxis(a, axis, -1))
    batch_a = tuple(i - (i > axis) for i in batch_a)
    return _barrier(_multiplied(turned, b, (((a.ndim - 1,), sum_b), (batch_a, batch_b)), **params))


def _order(shape: Sequence[int]) -> tuple[int, int]:
    """How large an array is, one with more named sizes being the larger one."""
    numbers = [n for n in shape if not is_named(n)]
    return len(shape) - len(numbers), math.prod(numbers)


def _multiplied(a: Array, b: Array, numbers: tuple[_Pair, _Pair], **params: object) -> Array:
    return lax.dot_general(a, b, numbers, **params)  # type: ignore[arg-type]


def _barrier(x: Array) -> Array:
    return lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
