"""The point that a fit begins at, and what it knows before its first step."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import same_structure, value_error
from equipoise._types import Array, PyTree
from equipoise.vi._families.family import Family
from equipoise.vi._families.layout import Layout
from equipoise.vi._starts.normals import Local
from equipoise.vi._target.target import Target

_NUM_FIRST_DRAWS = 64


class Begun(NamedTuple):
    """Where a fit begins, and the density that its steps follow: that of all data, or near it.

    ``at_rest`` is whether nothing changes where it follows that of other rows.
    """

    center: np.ndarray
    starts: Local | None
    target: Target
    at_rest: bool


def starting_point(target: Target, family: Family, start: PyTree) -> np.ndarray:
    """The flat vector to begin at, where the log density and its gradient are finite."""
    if start is not None:
        same_structure("start", start, family.positions.abstract, "example")
        center = _flat_vector(family.positions, start)
    elif family.placed:
        center = np.zeros(family.dimension)
    else:  # the family knows where it begins
        center = _mean_of_first_draws(family)
    center = np.asarray(center, target.dtype)
    for term, number in zip(("value", "gradient"), target.gradients(center[None]), strict=True):
        if not np.all(np.isfinite(number)):
            raise value_error(
                "log_density",
                f"must have a finite {term} at the start",
                str(number[0]),
                "Give a `start` inside its domain, or a `support` that keeps positions there.",
            )
    return center


@functools.partial(jax.jit, static_argnums=0)
def _flat_vector(positions: Layout, start: PyTree) -> Array:
    return positions.ravel(start)


@functools.partial(jax.jit, static_argnums=0)
def _mean_of_first_draws(family: Family) -> Array:
    key = jax.random.key(0)
    drawn = family.sample(family.init(key), key, _NUM_FIRST_DRAWS)
    return jnp.mean(jax.vmap(family.ravel)(drawn), axis=0)
