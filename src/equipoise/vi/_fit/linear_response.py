"""Covariances that a mean-field normal lacks, from how its optimum responds to the target."""

import jax
import jax.numpy as jnp

from equipoise._types import Array, Scalar
from equipoise.vi._fit.target import Target


@jax.jit
def linear_response(target: Target, mean: Array, scale: Array, noise: Array) -> Array:
    """Cholesky factor of the linear-response covariance; nan where the optimum is none.

    Adding t·z to log p moves the optimal mean by Σ t, so Σ is the block of the means in the
    inverse Hessian of the negative ELBO. For a normal target it is exact.
    """
    d = mean.shape[0]

    def negative_elbo(eta: Array) -> Scalar:
        move, stretch = eta[:d], eta[d:]
        points = (mean + scale * move)[None] + (scale * jnp.exp(stretch))[None] * noise
        return -jnp.mean(jax.vmap(target.flat)(points)) - jnp.sum(stretch)

    hessian = jax.hessian(negative_elbo)(jnp.zeros(2 * d, mean.dtype))
    lower = jnp.linalg.cholesky(0.5 * (hessian + hessian.T))
    unit = jnp.eye(2 * d, d, dtype=mean.dtype)
    root = jax.scipy.linalg.solve_triangular(lower, unit, lower=True)
    return scale[:, None] * jnp.linalg.cholesky(root.T @ root)
