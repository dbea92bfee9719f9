"""The log density of a target: what it must return, and as a function of flat vectors."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import value_error
from equipoise._types import Array, PyTree, Scalar
from equipoise.vi._families.family import Params
from equipoise.vi._families.layout import Layout

LogDensity: TypeAlias = Callable[[PyTree], Scalar]


def checked_density(argument: str, log_density: LogDensity, dtype: np.dtype) -> LogDensity:
    """The log density, which raises where it does not return one floating-point number."""

    def density(position: PyTree) -> Scalar:
        value = jnp.asarray(log_density(position))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise value_error(
                argument,
                "must return one floating-point number for one position",
                value,
                "Sum over the data inside it; positions are mapped for you.",
            )
        return value.astype(dtype)

    return density


def dtype_of(params: Params) -> np.dtype:
    """Dtype of the params, which is that of the noise and of every sum."""
    return jnp.asarray(jax.tree.leaves(params)[0]).dtype


def flat_log_density(log_density: LogDensity, positions: Layout) -> Callable[[Array], Scalar]:
    """Log p(position) + log |∂position/∂flat| at a flat vector."""

    def flat_density(flat: Array) -> Scalar:
        value = jnp.asarray(log_density(positions.unravel(flat))).astype(flat.dtype)
        return value + positions.log_volume(flat)

    return flat_density
