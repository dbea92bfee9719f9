"""The log density of a target: what it must return, and as a function of flat vectors."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import describe, type_error, value_error
from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, PyTree, Scalar
from equipoise.vi._families.family import Family, Params
from equipoise.vi._families.layout import Layout

LogDensity: TypeAlias = Callable[..., Scalar]


def density_of(argument: str, log_density: LogDensity, family: Family, *others: PyTree) -> Traced:
    """The log density of one position as data; raises where it does not return one number.

    Others that it takes are given as their shapes and dtypes.

    What it captured are leaves, so that compiled functions that it is an argument of are compiled
    once for its equations.
    """
    if not callable(log_density):
        raise type_error(argument, "must be a function of a position", log_density)

    def density(position: PyTree, *others: PyTree) -> Scalar:
        found = log_density(position, *others)
        value = jnp.asarray(found) if jax.tree_util.all_leaves([found]) else np.zeros(0)
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise value_error(
                argument,
                "must return one floating-point number for one position",
                describe(found),
                "Sum over the data inside it; positions are mapped for you.",
            )
        return value

    if family.positions is not None:
        return traced(density, family.positions.abstract, *others)
    return traced(density, jax.eval_shape(functools.partial(_position, family)))


def _position(family: Family) -> PyTree:
    key = jax.random.key(0)
    return jax.tree.map(lambda leaf: leaf[0], family.sample(family.init(key), key, 1))


def dtype_of(params: Params) -> np.dtype:
    """Dtype of the params, which is that of the noise and of every sum."""
    return jnp.asarray(jax.tree.leaves(params)[0]).dtype


def flat_log_density(log_density: LogDensity, positions: Layout) -> Callable[[Array], Scalar]:
    """Log p(position) + log |∂position/∂flat| at a flat vector."""

    def flat_density(flat: Array) -> Scalar:
        value = jnp.asarray(log_density(positions.unravel(flat))).astype(flat.dtype)
        return value + positions.log_volume(flat)

    return flat_density
