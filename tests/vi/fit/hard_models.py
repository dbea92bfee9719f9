"""Posteriors of models from many fields, hundreds of latents among them, on data of their making.

They are written as people write them first. `hard_references.json` has the moments of long chains
of NUTS with its sampler, seed and least effective number of draws: on non-centered coordinates
where a model is centered, with other labels or signs added where they leave the density alone.
Scales of a horseshoe have no sd, and chains do not settle that of the level of a volatility, whose
kurtosis is 13: they are left out.
"""

import json
import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jax.scipy.stats import cauchy, norm

from equipoise import vi

REFERENCES = json.loads((pathlib.Path(__file__).parent / "hard_references.json").read_text())


class Model(NamedTuple):
    """What is fitted."""

    log_density: object
    example: object
    support: object


def slopes(groups=30, each=8):
    """A regression whose intercepts and slopes vary over groups."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((groups, each))
    a, b = 1 + 0.6 * rng.standard_normal(groups), -0.5 + 0.3 * rng.standard_normal(groups)
    y = jnp.asarray(a[:, None] + b[:, None] * x + rng.standard_normal((groups, each)))
    x = jnp.asarray(x)

    def log_density(z):
        mean, scale, noise = z["mean"], z["scale"], z["noise"]
        prior = jnp.sum(norm.logpdf(mean, 0, 5)) + jnp.sum(norm.logpdf(scale, 0, 1))
        prior += norm.logpdf(noise, 0, 1) + jnp.sum(norm.logpdf(z["a"], mean[0], scale[0]))
        prior += jnp.sum(norm.logpdf(z["b"], mean[1], scale[1]))
        return prior + jnp.sum(norm.logpdf(y, z["a"][:, None] + z["b"][:, None] * x, noise))

    group = np.zeros(groups)
    example = {"mean": np.zeros(2), "scale": np.ones(2), "noise": 1.0, "a": group, "b": group}
    return Model(log_density, example, {"scale": vi.positive(), "noise": vi.positive()})


def volatility(days=300):
    """Log volatilities that follow an autoregression: Kim, Shephard and Chib (1998)."""
    rng = np.random.default_rng(4)
    h = np.zeros(days)
    h[0] = 0.3 / math.sqrt(1 - 0.95**2) * rng.standard_normal()
    for t in range(1, days):
        h[t] = 0.95 * h[t - 1] + 0.3 * rng.standard_normal()
    y = jnp.asarray(np.exp(0.5 * (h - 1.0)) * rng.standard_normal(days))

    def log_density(z):
        level, phi, sigma, h = z["level"], z["persistence"], z["scale"], z["h"]
        prior = norm.logpdf(level, 0, 5) + norm.logpdf(sigma, 0, 0.5)
        prior += 19 * jnp.log1p(phi) + 0.5 * jnp.log1p(-phi)  # (φ + 1)/2 ~ Beta(20, 1.5)
        prior += norm.logpdf(h[0], level, sigma / jnp.sqrt(1 - phi**2))
        prior += jnp.sum(norm.logpdf(h[1:], level + phi * (h[:-1] - level), sigma))
        return prior - 0.5 * jnp.sum(h + y**2 * jnp.exp(-h))

    example = {"level": 0.0, "persistence": 0.5, "scale": 0.5, "h": np.zeros(days)}
    return Model(
        log_density, example, {"persistence": vi.interval(-1.0, 1.0), "scale": vi.positive()}
    )


def horseshoe(rows=60, size=12):
    """A regression most of whose coefficients are nearly nothing: Carvalho et al. (2010)."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((rows, size))
    beta = np.r_[2.0, -1.5, 1.0, np.zeros(size - 3)]
    y = jnp.asarray(x @ beta + rng.standard_normal(rows))
    x = jnp.asarray(x)

    def log_density(z):
        local, scale, noise = z["local"], z["scale"], z["noise"]
        prior = jnp.sum(cauchy.logpdf(local)) + cauchy.logpdf(scale, 0, 0.3)
        prior += norm.logpdf(noise, 0, 2) + jnp.sum(norm.logpdf(z["white"]))
        fit = x @ (z["white"] * local * scale)
        return prior + jnp.sum(norm.logpdf(y, fit, noise))

    example = {"white": np.zeros(size), "local": np.ones(size), "scale": 1.0, "noise": 1.0}
    support = {"local": vi.positive(), "scale": vi.positive(), "noise": vi.positive()}
    return Model(log_density, example, support)


def epidemic(days=25):
    """Daily counts of an epidemic, whose equations are solved by Runge–Kutta's method."""
    rng = np.random.default_rng(9)

    def cases(beta, gamma, first, xp):
        def slope(s, i):
            return -beta * s * i, beta * s * i - gamma * i

        def step(state, _):
            s, i = state
            for _ in range(2):
                k1 = slope(s, i)
                k2 = slope(s + 0.25 * k1[0], i + 0.25 * k1[1])
                k3 = slope(s + 0.25 * k2[0], i + 0.25 * k2[1])
                k4 = slope(s + 0.5 * k3[0], i + 0.5 * k3[1])
                s += (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0]) / 12
                i += (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1]) / 12
            return (s, i), i

        return xp.lax.scan(step, (1 - first, first), None, length=days)[1]

    mean = 200 * np.asarray(cases(0.8, 0.3, jnp.asarray(0.01), jax))
    shape = 8.0
    y = jnp.asarray(rng.poisson(rng.gamma(shape, mean / shape)), float)

    def log_density(z):
        beta, gamma, first, spread = z["beta"], z["gamma"], z["first"], z["spread"]
        prior = norm.logpdf(beta, 0, 1) + norm.logpdf(gamma, 0, 1) - spread - 99 * first
        rate, shape = 200 * cases(beta, gamma, first, jax), 1 / spread
        terms = gammaln(y + shape) - gammaln(shape) + shape * jnp.log(shape) + y * jnp.log(rate)
        return prior + jnp.sum(terms - (y + shape) * jnp.log(rate + shape))

    example = {"beta": 0.5, "gamma": 0.5, "first": 0.01, "spread": 0.2}
    support = {name: vi.positive() for name in ("beta", "gamma", "spread")}
    return Model(log_density, example, {**support, "first": vi.interval(0.0, 1.0)})


def counts(groups=20, each=6):
    """Zero-inflated negative binomial counts whose log means vary over groups."""
    rng = np.random.default_rng(10)
    rate = np.exp(1 + 0.7 * rng.standard_normal(groups))[:, None] * np.ones(each)
    y = rng.poisson(rng.gamma(2.0, rate / 2.0)) * (rng.random((groups, each)) > 0.25)
    y = jnp.asarray(y, float)

    def log_density(z):
        mean, scale, shape, empty = z["mean"], z["scale"], z["shape"], z["empty"]
        prior = norm.logpdf(mean, 0, 2) + norm.logpdf(scale, 0, 1) + jnp.log(shape) - shape
        prior += jnp.sum(norm.logpdf(z["level"], mean, scale))
        rate = jnp.exp(z["level"])[:, None]
        log_p = gammaln(y + shape) - gammaln(shape) - gammaln(y + 1)
        log_p += shape * jnp.log(shape) + y * jnp.log(rate) - (y + shape) * jnp.log(rate + shape)
        zero = jnp.where(y == 0, jnp.log(empty), -jnp.inf)
        return prior + jnp.sum(jnp.logaddexp(zero, jnp.log1p(-empty) + log_p))

    example = {"mean": 0.0, "scale": 1.0, "shape": 1.0, "empty": 0.5, "level": np.zeros(groups)}
    support = {"scale": vi.positive(), "shape": vi.positive(), "empty": vi.interval(0.0, 1.0)}
    return Model(log_density, example, support)


def clusters(size=80):
    """Two normals whose labels may be swapped."""
    rng = np.random.default_rng(11)
    y = jnp.asarray(np.where(rng.random(size) < 0.4, -1.5, 1.5) + 0.7 * rng.standard_normal(size))

    def log_density(z):
        center, scale, share = z["center"], z["scale"], z["share"]
        prior = jnp.sum(norm.logpdf(center, 0, 3)) + jnp.sum(norm.logpdf(jnp.log(scale)))
        prior -= jnp.sum(jnp.log(scale))
        one, other = (norm.logpdf(y, center[k], scale[k]) for k in range(2))
        return prior + jnp.sum(jnp.logaddexp(jnp.log(share) + one, jnp.log1p(-share) + other))

    example = {"center": np.zeros(2), "scale": np.ones(2), "share": 0.5}
    return Model(log_density, example, {"scale": vi.positive(), "share": vi.interval(0.0, 1.0)})


def factors(rows=30, size=5):
    """Loadings of one factor, whose sign may change with that of the scores."""
    rng = np.random.default_rng(12)
    loads = np.array([1.2, -0.8, 1.0, 0.6, -1.1])[:size]
    y = jnp.asarray(
        rng.standard_normal((rows, 1)) * loads[None] + 0.6 * rng.standard_normal((rows, size))
    )

    def log_density(z):
        prior = jnp.sum(norm.logpdf(z["loads"])) + jnp.sum(norm.logpdf(z["scores"]))
        prior += norm.logpdf(z["noise"], 0, 1)
        return prior + jnp.sum(norm.logpdf(y, z["scores"][:, None] * z["loads"][None], z["noise"]))

    example = {"loads": np.zeros(size), "scores": np.zeros(rows), "noise": 1.0}
    return Model(log_density, example, {"noise": vi.positive()})
