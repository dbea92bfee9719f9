"""Pareto-smoothed importance sampling: tails of weights, and how far they can be trusted."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, Scalar

_PRIOR_STRENGTH = 10  # draws that the prior k̂ = 0.5 counts for (Vehtari et al. 2024, appendix C)


class _Smoothed(NamedTuple):
    """Normalized smoothed log weights, the tail shape k̂ and the effective sample size."""

    log_weights: Array
    khat: Scalar
    effective_sample_size: Scalar


def threshold(num_samples: int) -> float:
    """Largest k̂ at which that many draws give reliable moments: min(1 − 1/log10 S, 0.7)."""
    return min(1 - 1 / math.log10(num_samples), 0.7)


def _tail_length(num_samples: int) -> int:
    """How many of the largest weights the generalized Pareto is fitted to."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def _fit_pareto(excess: Array) -> tuple[Scalar, Scalar]:
    """Shape k and scale σ of a generalized Pareto from sorted positive excesses.

    The quasi-Bayesian estimate of :cite:t:`zhang2009`, with the shape shrunk towards 0.5.
    """
    n = excess.shape[0]
    grid = 30 + int(math.sqrt(n))
    j = jnp.arange(1, grid + 1, dtype=excess.dtype) - 0.5
    quartile, largest = excess[int(n / 4 + 0.5) - 1], excess[-1]
    theta = 1 / largest + (1 - jnp.sqrt(grid / j)) / (3 * quartile)
    shape = jnp.mean(jnp.log1p(-theta[:, None] * excess[None, :]), axis=1)
    profile = n * (jnp.log(-theta / shape) - shape - 1)
    theta_mean = jnp.sum(theta * jax.nn.softmax(profile))
    k = jnp.mean(jnp.log1p(-theta_mean * excess))
    scale = -k / theta_mean
    return (n * k + _PRIOR_STRENGTH * 0.5) / (n + _PRIOR_STRENGTH), scale


def smooth(log_ratios: Array) -> _Smoothed:
    """Replaces the largest ratios by quantiles of the Pareto fitted to them, then normalizes.

    A ratio that is not finite counts as weight 0; with none finite, k̂ is inf.
    """
    size = log_ratios.shape[0]
    tail = _tail_length(size)
    finite = jnp.isfinite(log_ratios)
    floor = np.finfo(log_ratios.dtype).min / 4
    log_ratios = jnp.where(finite, log_ratios, floor)
    log_ratios = log_ratios - jnp.max(log_ratios)
    order = jnp.argsort(log_ratios)
    ordered = log_ratios[order]
    cutoff = jnp.exp(ordered[-tail - 1])
    excess = jnp.exp(ordered[-tail:]) - cutoff
    # Weights that are equal up to rounding have no tail; k̂ is set to 0 below.
    tiny = np.finfo(excess.dtype).tiny ** 0.5
    spread = excess[-1] > np.finfo(excess.dtype).eps ** 0.5
    k, scale = _fit_pareto(jnp.maximum(excess, tiny))
    p = (jnp.arange(1, tail + 1, dtype=excess.dtype) - 0.5) / tail
    quantiles = cutoff + scale * jnp.expm1(-k * jnp.log1p(-p)) / k
    smoothed = jnp.minimum(jnp.log(quantiles), 0.0)
    ok = spread & jnp.isfinite(k) & jnp.all(jnp.isfinite(smoothed))
    ordered = ordered.at[-tail:].set(jnp.where(ok, smoothed, ordered[-tail:]))
    log_weights = jnp.zeros_like(ordered).at[order].set(ordered)
    log_weights = log_weights - jax.scipy.special.logsumexp(log_weights)
    khat = jnp.where(spread, jnp.where(jnp.isfinite(k), k, jnp.inf), 0.0)
    khat = jnp.where(jnp.any(finite), khat, jnp.inf)
    return _Smoothed(log_weights, khat, jnp.exp(-jax.scipy.special.logsumexp(2 * log_weights)))
