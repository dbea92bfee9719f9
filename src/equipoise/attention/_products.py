"""A traced program with its matrix products in the layout that CPUs multiply fast.

The transpose of a product sums over rows of both operands. XLA on CPU hands such a product to a
routine of half the speed; a transposed copy of the smaller operand makes it an ordinary one. The
copy costs more than it saves where the sum is short.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from equipoise._types import Array

_LONG = 512


def evaluate(program: ClosedJaxpr, *args: Array) -> Sequence[Array]:
    """The values of the program, its products laid out."""
    known: dict[Any, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    known.update(zip(program.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in program.jaxpr.eqns:
        primitive, params = equation.primitive, equation.params
        values = [read(atom) for atom in equation.invars]
        # Nothing differentiates this any more, so calls with rules of their own are just calls.
        inner = params.get("call_jaxpr", params.get("jaxpr") if primitive.name == "jit" else None)
        if primitive is lax.dot_general_p:
            out: Any = [_product(*values, **params)]
        elif isinstance(inner, ClosedJaxpr):
            out = evaluate(inner, *values)
        else:
            out = primitive.bind(*values, **params)
            out = out if primitive.multiple_results else [out]
        known.update(zip(equation.outvars, out, strict=True))
    return [read(atom) for atom in program.jaxpr.outvars]


def _product(a: Array, b: Array, *, dimension_numbers: Any, **params: Any) -> Array:
    (sum_a, sum_b), (batch_a, batch_b) = dimension_numbers
    summed = [len(axes) == 1 and axes[0] < x.ndim - 1 for axes, x in ((sum_a, a), (sum_b, b))]
    if not all(summed) or a.shape[sum_a[0]] < _LONG:
        return lax.dot_general(a, b, dimension_numbers, **params)
    if a.size > b.size:
        out = _product(b, a, dimension_numbers=((sum_b, sum_a), (batch_b, batch_a)), **params)
        batch, free = len(batch_a), b.ndim - 1
        order = (*range(batch), *range(free, out.ndim), *range(batch, free))
        return jnp.transpose(out, order)
    # Without the barriers XLA would fold these transposes, and those that follow, into the product.
    (axis,) = sum_a
    turned = _barrier(jnp.moveaxis(a, axis, -1))
    batch_a = tuple(i - (i > axis) for i in batch_a)
    dimension_numbers = (((a.ndim - 1,), sum_b), (batch_a, batch_b))
    return _barrier(lax.dot_general(turned, b, dimension_numbers, **params))


def _barrier(x: Array) -> Array:
    held: Array = lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    return held
