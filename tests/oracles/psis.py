"""Pareto-smoothed importance sampling in plain NumPy, after the text of Vehtari et al. (2024)."""

import math

import numpy as np


def fit_pareto(excess):
    """Posterior-mean shape and scale of a generalized Pareto (Zhang and Stephens 2009)."""
    x = np.sort(np.asarray(excess, np.float64))
    n = len(x)
    m = 30 + int(math.sqrt(n))
    candidates = []
    for j in range(1, m + 1):
        quartile = x[int(n / 4 + 0.5) - 1]
        candidates.append(1 / x[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile))
    log_likelihood = []
    for theta in candidates:
        k = np.mean([math.log1p(-theta * value) for value in x])
        log_likelihood.append(n * (math.log(-theta / k) - k - 1))
    weights = np.exp(np.array(log_likelihood) - max(log_likelihood))
    theta = np.dot(weights, candidates) / weights.sum()
    k = np.mean(np.log1p(-theta * x))
    scale = -k / theta
    return (n * k + 5) / (n + 10), scale


def smooth(log_ratios):
    """Normalized smoothed weights and k̂."""
    ratios = np.exp(np.asarray(log_ratios, np.float64) - np.max(log_ratios))
    size = len(ratios)
    tail = math.ceil(min(0.2 * size, 3 * math.sqrt(size)))
    order = np.argsort(ratios, kind="stable")
    cutoff = ratios[order[-tail - 1]]
    k, scale = fit_pareto(ratios[order[-tail:]] - cutoff)
    for rank in range(tail):
        p = (rank + 0.5) / tail
        quantile = cutoff + scale / k * ((1 - p) ** -k - 1)
        ratios[order[size - tail + rank]] = min(quantile, 1.0)
    return ratios / ratios.sum(), k
