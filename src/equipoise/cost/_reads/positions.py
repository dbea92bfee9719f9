"""A function of one array, and the steps from its input positions to its output positions."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import floating_array, is_traced, type_error, value_error
from equipoise._jax.programs import ClosedProgram, Program
from equipoise._types import Array
from equipoise.cost._reads.reach import NONE, Reach
from equipoise.cost._reads.unrolled import Walk

Layer: TypeAlias = Callable[[Array], Array]
Point: TypeAlias = Array | np.ndarray | jax.ShapeDtypeStruct

_LARGEST = 256


def traced(fn: Layer, x: Point, axis: int) -> tuple[ClosedProgram, Array, int]:
    """The program of fn at the sizes of x, a point of that shape, and the axis from the front."""
    if is_traced(x):
        raise type_error(
            "x",
            "must be known",
            x,
            "Call it outside of jit: it reads a program, not values.",
        )
    if isinstance(x, jax.ShapeDtypeStruct):
        x = jnp.asarray(np.random.default_rng(0).normal(size=x.shape), x.dtype)
    x = floating_array("x", x)
    if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
        raise value_error("axis", f"must be an axis of `x` {list(x.shape)}", axis)
    axis %= x.ndim
    if not 1 <= x.shape[axis] <= _LARGEST:
        raise value_error(
            "x",
            f"must have 1 to {_LARGEST} positions",
            x,
            "The pattern of a small size does.",
        )
    program, out = jax.make_jaxpr(fn, return_shape=True)(x)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise type_error(
            "fn", "must return one array", out, "Take the output that is meant inside of it."
        )
    if len(out.shape) <= axis:
        raise value_error(
            "axis", "must be an axis of the result of `fn`", f"shape {list(out.shape)}"
        )
    return program, x, axis


def reached(
    program: Program, x: Array, axis: int, *, counts: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Fewest iterations from input j to output i, or ``NONE``; and what was assumed."""
    n = x.shape[axis]
    steps = np.full((*x.shape, n), NONE)
    for j in range(n):
        steps[(slice(None),) * axis + (j, ..., j)] = 0
    start = Reach(np.zeros(x.shape, x.dtype), np.zeros(x.shape, bool), steps)
    walk = Walk(n, counts=counts)
    (y,) = walk.run(program, [start])
    if not isinstance(y, Reach):
        return np.full((np.shape(y)[axis], n), NONE), tuple(walk.notes)
    others = tuple(i for i in range(len(y.shape)) if i != axis)
    return np.asarray(y.steps.min(axis=others)), tuple(walk.notes)
