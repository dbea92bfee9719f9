"""Posteriors far from a normal, with their exact moments: funnels, bananas, tails, modes.

Each target is a log density, an example, and the means and sds of its coordinates.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm


class Target(NamedTuple):
    """What is fitted, and what its draws are held to."""

    log_density: object
    example: object
    mean: np.ndarray
    sd: np.ndarray


def funnel(size=10, scale=3.0):
    """v ~ N(0, 3²), and the others N(0, eᵛ): Neal (2003)."""

    def log_density(z):
        x = z[1:]
        return norm.logpdf(z[0], 0, scale) + jnp.sum(norm.logpdf(x, 0, jnp.exp(0.5 * z[0])))

    sd = np.r_[scale, np.full(size - 1, math.exp(scale**2 / 4))]
    return Target(log_density, np.zeros(size), np.zeros(size), sd)


def banana(pairs=1, rest=0, bend=0.03, wide=10.0):
    """Pairs x ~ N(0, w²), y ~ N(b (x² − w²), 1), and standard normals: Haario et al. (1999)."""

    def log_density(z):
        x, y = z[:pairs], z[pairs : 2 * pairs]
        bent = jnp.sum(norm.logpdf(x, 0, wide) + norm.logpdf(y, bend * (x**2 - wide**2), 1))
        return bent - 0.5 * jnp.sum(z[2 * pairs :] ** 2)

    tall = math.sqrt(1 + 2 * bend**2 * wide**4)
    sd = np.r_[np.full(pairs, wide), np.full(pairs, tall), np.ones(rest)]
    return Target(log_density, np.zeros(2 * pairs + rest), np.zeros(2 * pairs + rest), sd)


def heavy(size=10, degrees=5.0):
    """Independent Student t."""

    def log_density(z):
        return -0.5 * (degrees + 1) * jnp.sum(jnp.log1p(z**2 / degrees))

    sd = math.sqrt(degrees / (degrees - 2))
    return Target(log_density, np.zeros(size), np.zeros(size), np.full(size, sd))


def modes(centers, sds, shares):
    """A mixture of round normals."""
    centers, sds, shares = (np.asarray(x, float) for x in (centers, sds, shares))
    d = centers.shape[1]

    def log_density(z):
        square = jnp.sum(((z[None] - centers) / sds[:, None]) ** 2, axis=1)
        return logsumexp(-0.5 * square + np.log(shares) - d * np.log(sds))

    shares = shares / shares.sum()
    mean = shares @ centers
    variance = shares @ (sds[:, None] ** 2 + (centers - mean) ** 2)
    return Target(log_density, np.zeros(d), mean, np.sqrt(variance))
