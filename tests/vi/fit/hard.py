"""Posteriors far from a normal, with their exact moments: funnels, bananas, modes, hierarchies.

Each target is a log density, an example, a function of one position whose moments count, and the
means and sds of it, in closed form or by quadrature in NumPy.
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
        square = jnp.sum(((z - centers) / sds[:, None]) ** 2, axis=1)
        return logsumexp(-0.5 * square + np.log(shares) - d * np.log(sds))

    shares = shares / shares.sum()
    mean = shares @ centers
    variance = shares @ (sds[:, None] ** 2 + (centers - mean) ** 2)
    return Target(log_density, np.zeros(d), mean, np.sqrt(variance))


def volatility(size=120):
    rng = np.random.default_rng(1)
    h = np.zeros(size)
    h[0] = -1 + 0.25 / math.sqrt(1 - 0.95**2) * rng.standard_normal()
    for t in range(1, size):
        h[t] = -1 + 0.95 * (h[t - 1] + 1) + 0.25 * rng.standard_normal()
    y = jnp.asarray(np.exp(h / 2) * rng.standard_normal(size))

    def log_density(z):
        mu, phi, sigma, h = z["mu"], z["phi"], z["sigma"], z["h"]
        first = norm.logpdf(h[0], mu, sigma / jnp.sqrt(1 - phi**2))
        steps = jnp.sum(norm.logpdf(h[1:], mu + phi * (h[:-1] - mu), sigma))
        prior = norm.logpdf(mu, 0, 3) + 19 * jnp.log1p(phi) + 0.5 * jnp.log1p(-phi) - sigma / 0.3
        return prior + first + steps + jnp.sum(norm.logpdf(y, 0, jnp.exp(h / 2)))

    return Target(log_density, {"mu": 0.0, "phi": 0.5, "sigma": 0.3, "h": np.zeros(size)}, 0, 0)


def cox(side=8):
    rng = np.random.default_rng(2)
    at = np.stack(np.meshgrid(range(side), range(side)), -1).reshape(-1, 2) / side
    gap = np.linalg.norm(at[:, None] - at, axis=-1)
    cov = np.exp(-gap / 0.3) + 1e-6 * np.eye(len(at))
    f = np.linalg.cholesky(cov) @ rng.standard_normal(len(at))
    y = jnp.asarray(rng.poisson(np.exp(0.5 + f)), float)

    def log_density(z):
        k = z["sd"] ** 2 * jnp.exp(-jnp.asarray(gap) / z["length"]) + 1e-6 * jnp.eye(len(at))
        root = jnp.linalg.cholesky(k)
        white = jnp.linalg.solve(root, z["f"])
        prior = -0.5 * jnp.sum(white**2) - jnp.sum(jnp.log(jnp.diagonal(root)))
        prior += (
            norm.logpdf(z["sd"], 0, 1)
            + norm.logpdf(jnp.log(z["length"]), -1, 0.5)
            - jnp.log(z["length"])
            + norm.logpdf(z["mean"], 0, 2)
        )
        eta = z["mean"] + z["f"]
        return prior + jnp.sum(y * eta - jnp.exp(eta))

    return Target(
        log_density, {"sd": 1.0, "length": 0.3, "mean": 0.0, "f": np.zeros(len(at))}, 0, 0
    )


def slopes(groups=20, each=8):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.standard_normal((groups, each)))
    a, b = 1 + 0.6 * rng.standard_normal(groups), -0.5 + 0.3 * rng.standard_normal(groups)
    y = jnp.asarray(
        a[:, None] + b[:, None] * np.asarray(x) + 1.0 * rng.standard_normal((groups, each))
    )

    def log_density(z):
        prior = (
            jnp.sum(norm.logpdf(z["mean"], 0, 5))
            + jnp.sum(norm.logpdf(z["scale"], 0, 1))
            + norm.logpdf(z["noise"], 0, 1)
        )
        prior += jnp.sum(norm.logpdf(z["a"], z["mean"][0], z["scale"][0])) + jnp.sum(
            norm.logpdf(z["b"], z["mean"][1], z["scale"][1])
        )
        return prior + jnp.sum(norm.logpdf(y, z["a"][:, None] + z["b"][:, None] * x, z["noise"]))

    return Target(
        log_density,
        {
            "mean": np.zeros(2),
            "scale": np.ones(2),
            "noise": 1.0,
            "a": np.zeros(groups),
            "b": np.zeros(groups),
        },
        0,
        0,
    )
