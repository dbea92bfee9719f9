"""Pareto-smoothed importance sampling: tails of weights, and how far they can be trusted.

The same lines run traced, and on the host, where NumPy's sort needs no compilation: operations are
those of the arrays that come.
"""

import math
from typing import NamedTuple

import numpy as np

from equipoise._types import Array, Scalar
from equipoise.vi._families.draws import AnyArray

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


def log_sum(log_terms: AnyArray) -> Scalar:
    """Log of the sum of exponentials; −inf where every term is."""
    xp = log_terms.__array_namespace__()
    largest = xp.max(log_terms)
    largest = xp.where(xp.isfinite(largest), largest, 0)
    return largest + xp.log(xp.sum(xp.exp(log_terms - largest)))


def _fit_pareto(excess: AnyArray) -> tuple[Scalar, Scalar]:
    """Shape k and scale σ of a generalized Pareto from sorted positive excesses.

    The quasi-Bayesian estimate of :cite:t:`zhang2009`, with the shape shrunk towards 0.5.
    """
    xp = excess.__array_namespace__()
    n = excess.shape[0]
    grid = 30 + int(math.sqrt(n))
    j = xp.arange(1, grid + 1, dtype=excess.dtype) - 0.5
    quartile, largest = excess[int(n / 4 + 0.5) - 1], excess[-1]
    theta = 1 / largest + (1 - xp.sqrt(grid / j)) / (3 * quartile)
    shape = xp.mean(xp.log1p(-theta[:, None] * excess[None, :]), axis=1)
    profile = n * (xp.log(-theta / shape) - shape - 1)
    theta_mean = xp.sum(theta * xp.exp(profile - log_sum(profile)))
    k = xp.mean(xp.log1p(-theta_mean * excess))
    scale = -k / theta_mean
    return (n * k + _PRIOR_STRENGTH * 0.5) / (n + _PRIOR_STRENGTH), scale


def smooth(log_ratios: AnyArray, rounding: AnyArray) -> _Smoothed:
    """Replaces the largest ratios by quantiles of the Pareto fitted to them, then normalizes.

    A ratio that is not finite counts as weight 0; with none finite, or one +inf, k̂ is inf.
    ``rounding`` is how far apart equal ratios may be: less than that is no tail, and its ties would
    look like one.
    """
    xp = log_ratios.__array_namespace__()
    tail = _tail_length(log_ratios.shape[0])
    finite, endless = xp.isfinite(log_ratios), log_ratios == np.inf
    log_ratios = xp.where(finite, log_ratios, np.finfo(log_ratios.dtype).min / 4)
    log_ratios = log_ratios - xp.max(log_ratios)
    order = xp.argsort(log_ratios)
    ordered = log_ratios[order]
    cutoff = xp.exp(ordered[-tail - 1])
    excess = xp.exp(ordered[-tail:]) - cutoff
    # Weights that are equal up to rounding have no tail; k̂ is set to 0 below.
    tiny = np.finfo(excess.dtype).tiny ** 0.5
    spread = excess[-1] > rounding
    k, scale = _fit_pareto(xp.maximum(excess, tiny))
    p = (xp.arange(1, tail + 1, dtype=excess.dtype) - 0.5) / tail
    quantiles = cutoff + scale * xp.expm1(-k * xp.log1p(-p)) / k
    smoothed = xp.minimum(xp.log(quantiles), 0.0)
    ok = spread & xp.isfinite(k) & xp.all(xp.isfinite(smoothed))
    largest = xp.where(ok, smoothed, ordered[-tail:])
    log_weights = xp.concat([ordered[:-tail], largest])[xp.argsort(order)]
    log_weights = log_weights - log_sum(log_weights)
    khat = xp.where(spread, xp.where(xp.isfinite(k), k, np.inf), 0.0)
    khat = xp.where(xp.any(finite) & ~xp.any(endless), khat, np.inf)
    return _Smoothed(log_weights, khat, xp.exp(-log_sum(2 * log_weights)))
