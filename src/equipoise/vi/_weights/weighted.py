"""Weighted draws: moments with their standard errors, and what they say about a proposal."""

import jax.numpy as jnp

from equipoise._types import Array, Scalar, record
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._weights.psis import smooth

_QUANTA = 4  # of a sum over data, which is rounded more than once
_MOST = 0.1  # of the largest weight: more is a difference, whatever made it


@record
class Weighted:
    """Draws of a proposal with Pareto-smoothed weights towards the target.

    Attributes:
        draws: Flat vectors, one per row.
        log_ratios: Log target minus log proposal, as they came.
        log_weights: Smoothed log weights; the weights sum to 1.
        khat: Shape of the Pareto tail of the weights.
        effective_sample_size: 1/Σ w².
    """

    draws: Array
    log_ratios: Array
    log_weights: Array
    khat: Scalar
    effective_sample_size: Scalar


def weigh(draws: AnyArray, log_p: AnyArray, log_q: AnyArray) -> Weighted:
    """The draws of q with smoothed weights towards p."""
    log_ratios = log_p - log_q
    return Weighted(draws, log_ratios, *smooth(log_ratios, _rounding(log_p, log_q, log_ratios)))


def _rounding(log_p: AnyArray, log_q: AnyArray, log_ratios: AnyArray) -> Scalar:
    """How far apart ratios that are equal may come, where it counts: at the largest of them."""
    xp = log_ratios.__array_namespace__()
    precision: AnyArray = jnp.finfo  # it is left untyped
    eps = max(float(precision(x.dtype).eps) for x in (log_p, log_q))
    largest = xp.argmax(xp.where(xp.isfinite(log_ratios), log_ratios, -xp.inf))
    return xp.clip(_QUANTA * eps * xp.abs(log_p[largest]), eps**0.5, _MOST)


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


def moments(draws: AnyArray, log_weights: AnyArray) -> _Moments:
    """Self-normalized moments; errors by the delta method."""
    xp = draws.__array_namespace__()
    w = xp.exp(log_weights).astype(draws.dtype)

    def total(weights: AnyArray, rows: AnyArray) -> Array:
        return xp.einsum("n,nd->d", weights, rows)

    mean = total(w, draws)
    squares = (draws - mean[None]) ** 2
    variance = total(w, squares)
    sd = xp.sqrt(variance)
    mean_error = xp.sqrt(total(w**2, squares))
    variance_error = xp.sqrt(total(w**2, (squares - variance[None]) ** 2))
    return _Moments(mean, sd, mean_error, variance_error / (2 * sd))
