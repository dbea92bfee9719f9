"""Weighted draws: moments with their standard errors, and what they say about a proposal."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._types import Array, Scalar, record
from equipoise.vi._weights.psis import smooth

_CHUNK = 512  # points evaluated together, so that memory does not grow with the number of draws


@record
class Weighted:
    """Draws of a proposal with Pareto-smoothed weights towards the target.

    Attributes:
        draws: Flat vectors, one a row.
        log_weights: Smoothed log weights; the weights sum to 1.
        log_ratios: Log target minus log proposal, as they came.
        khat: Shape of the Pareto tail of the weights.
        effective_sample_size: 1/Σ w².
    """

    draws: Array
    log_weights: Array
    log_ratios: Array
    khat: Scalar
    effective_sample_size: Scalar


def evaluate(log_p: Callable[[Array], Scalar], draws: Array) -> Array:
    """Log densities of the rows, a chunk at a time."""
    return jax.lax.map(log_p, draws, batch_size=min(_CHUNK, draws.shape[0]))


@jax.jit
def weigh(draws: Array, log_p: Array, log_q: Array) -> Weighted:
    """The draws of q with smoothed weights towards p."""
    log_ratios = log_p - log_q
    smoothed = smooth(log_ratios)
    return Weighted(
        draws,
        smoothed.log_weights,
        log_ratios,
        smoothed.khat,
        smoothed.effective_sample_size,
    )


@record
class _Moments:
    """Means and sds of the coordinates with their standard errors.

    Attributes:
        mean: Weighted means.
        sd: Weighted standard deviations.
        mean_error: Standard errors of ``mean``.
        sd_error: Standard errors of ``sd``.
    """

    mean: Array
    sd: Array
    mean_error: Array
    sd_error: Array


def moments(draws: Array, log_weights: Array) -> _Moments:
    """Self-normalized moments; errors by the delta method."""
    w = jnp.exp(log_weights)[:, None]
    mean = jnp.sum(w * draws, axis=0)
    centered = draws - mean[None]
    variance = jnp.sum(w * centered**2, axis=0)
    sd = jnp.sqrt(variance)
    mean_error = jnp.sqrt(jnp.sum((w * centered) ** 2, axis=0))
    variance_error = jnp.sqrt(jnp.sum((w * (centered**2 - variance[None])) ** 2, axis=0))
    return _Moments(mean, sd, mean_error, variance_error / (2 * sd))
