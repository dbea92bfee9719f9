"""The log density as a value: its traced program, and the arrays it reads as leaves.

Arrays that a log density closes over would be constants of a compiled fit, copied to one device.
As leaves they keep their sharding, and a fit of new data of the same shapes compiles nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from equipoise._types import Array, PyTree, Scalar, result, static_field
from equipoise.vi._family import Family
from equipoise.vi._terms import LogDensity, checked_density


@result
class Target:
    """A log density of positions; call it with one.

    Attributes:
        arrays: What the function closes over.
        program: Its jaxpr.
    """

    arrays: Any
    program: Any = static_field()

    def __call__(self, position: PyTree) -> Scalar:
        closed = ClosedJaxpr(self.program, self.arrays)
        value: Scalar = jaxpr_as_fun(closed)(*jax.tree.leaves(position))[0]
        return value


def trace(where: str, log_density: LogDensity, family: Family) -> Target:
    """The traced log density, which must return one floating-point number.

    jax caches the trace by the identity of the function.
    """
    dtype = family.positions.dtype
    flat = jnp.zeros(family.dimension, dtype)
    position = jax.eval_shape(family.unravel, flat)
    jax.eval_shape(checked_density(where, "log_density", log_density, dtype), position)
    traced = jax.jit(log_density).trace(position).jaxpr
    return Target(traced.consts, traced.jaxpr)


def flat_log_density(log_density: LogDensity, family: Family) -> Callable[[Array], Scalar]:
    """Log p(position) + log |∂position/∂flat| at a flat vector."""

    def flat_density(flat: Array) -> Scalar:
        value = jnp.asarray(log_density(family.unravel(flat))).astype(flat.dtype)
        total: Array = value + family.log_volume(flat)
        return total

    return flat_density
