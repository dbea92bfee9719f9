"""The log density as a value: its traced program, and the arrays it reads as leaves.

Arrays that a log density closes over would be constants of a compiled fit, copied to one device.
As leaves they keep their sharding, and a fit of new data of the same shapes compiles nothing.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from equipoise._jax.programs import Program, as_function, closed, constants, opened
from equipoise._types import Array, PyTree, Scalar, record, static_field
from equipoise.vi._bounds.density import LogDensity, checked_density, flat_log_density
from equipoise.vi._families.family import Family
from equipoise.vi._weights.weighted import evaluate


@record
class Target:
    """A log density of positions, and the family whose flat vectors it is asked at.

    Functions that are compiled for a target compile once for a program and a family.

    Attributes:
        arrays: What the log density closes over.
        program: Its jaxpr.
        family: The family of the fit.
    """

    arrays: Sequence[Array]
    program: Program = static_field()
    family: Family = static_field()

    def log_density(self, position: PyTree) -> Scalar:
        """Log p of one position."""
        program = as_function(closed(opened(self.program), self.arrays))
        return program(*jax.tree.leaves(position))[0]

    def flat(self, vector: Array) -> Scalar:
        """Log density of one flat vector, with the volume factor of the supports."""
        return flat_log_density(self.log_density, self.family)(vector)


def trace(log_density: LogDensity, family: Family) -> Target:
    """The traced log density, which must return one floating-point number.

    jax caches the trace by the identity of the function.
    """
    dtype = family.positions.dtype
    position = jax.eval_shape(family.unravel, jnp.zeros(family.dimension, dtype))
    jax.eval_shape(checked_density("log_density", log_density, dtype), position)
    traced = jax.jit(log_density).trace(position).jaxpr
    return Target(constants(traced), traced.jaxpr, family)


@jax.jit
def log_densities(target: Target, draws: Array) -> Array:
    """Log density of every row."""
    return evaluate(target.flat, draws)


@jax.jit
def slope(target: Target, flat: Array) -> tuple[Array, Array]:
    """Log density and its gradient at one flat vector."""
    return jax.value_and_grad(target.flat)(flat)
