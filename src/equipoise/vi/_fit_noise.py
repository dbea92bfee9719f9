"""Fixed standard normal points with exact first and second moments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, PRNGKeyArray

MAX_LATTICE_SIZE = 20  # beyond it a Kronecker sequence fills no better than independent points


def balanced(key: PRNGKeyArray, num_samples: int, size: int, dtype: Any) -> Array:
    """Antithetic points with mean 0 and covariance I exactly, so quadratics are integrated exactly.

    A randomly shifted Kronecker sequence in low dimension, independent points above; at least
    2·``size`` are made.
    """
    half = max(-(-num_samples // 2), size + 1)
    if size <= MAX_LATTICE_SIZE:
        z = kronecker(key, half, size).astype(dtype)
    else:
        z = jax.random.normal(key, (half, size), dtype)
    factor = jnp.linalg.cholesky(z.T @ z / half)
    z = jax.scipy.linalg.solve_triangular(factor, z.T, lower=True).T
    return jnp.concatenate([z, -z])


def kronecker(key: PRNGKeyArray, num_samples: int, size: int) -> Array:
    """Normal quantiles of k·α + shift mod 1, with α the generalized golden ratio's powers.

    Unsigned integers wrap around, which is the fractional part without rounding.
    """
    phi = 2.0
    for _ in range(40):
        phi = (1 + phi) ** (1 / (size + 1))
    alpha = np.asarray([int(phi ** -(j + 1) * 2**32) | 1 for j in range(size)], np.uint32)
    shift = jax.random.bits(key, (size,), jnp.uint32)
    index = jnp.arange(num_samples, dtype=jnp.uint32)[:, None]
    bits = index * alpha[None] + shift[None]
    uniform = (bits >> 9).astype(jnp.float32) * 2.0**-23 + 2.0**-24
    return jax.scipy.special.ndtri(uniform)
