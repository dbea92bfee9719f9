"""The compiled stages of a fit.

Those that take a target compile once for a log density's program and a family, the others once
for a family and the shapes: they are kept apart so that a new log density compiles little.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, PRNGKeyArray
from equipoise.vi import _fit_gradient, _fit_normal
from equipoise.vi._adapt import adapt, first_mixture
from equipoise.vi._diagnose import draw, summarize
from equipoise.vi._estimate import Estimate, standard_error
from equipoise.vi._family import Family
from equipoise.vi._fit_noise import balanced
from equipoise.vi._fit_result import Diagnostics
from equipoise.vi._fit_start import Local, affine, conditional_scales, local_normals, normal_elbo
from equipoise.vi._fit_target import Target, flat_log_density
from equipoise.vi._linear_response import linear_response
from equipoise.vi._weighted import Weighted, evaluate, weigh

START_STEPS = 80
START_POINTS = 64
MAX_FULL_RANK = 200  # coordinates above which no d × d matrix is formed
MAX_ADAPTED = 50  # coordinates above which a mixture of Student t wastes nearly all draws
NUM_DRAWS = 8192
COMPONENTS = 6
ROUNDS = 16
DISTINCT = 5.0  # sds between modes that one normal does not cover
NEGLIGIBLE = 7.0  # nats of ELBO: a mode with less than a thousandth of the mass


@functools.partial(jax.jit, static_argnames=("size", "dtype", "num_samples"))
def points(key: PRNGKeyArray, size: int, dtype: Any, num_samples: int) -> tuple[Array, Array]:
    """Balanced points for the start and for the ELBO."""
    key_start, key_elbo = jax.random.split(key)
    return (
        balanced(key_start, START_POINTS, size, dtype),
        balanced(key_elbo, max(num_samples, 16 * size), size, dtype),
    )


@functools.partial(jax.jit, static_argnames="family")
def slope(target: Target, family: Family, center: Array) -> tuple[Array, Array]:
    """Log density and its gradient at one flat vector."""
    found: tuple[Array, Array] = jax.value_and_grad(flat_log_density(target, family))(center)
    return found


@functools.partial(jax.jit, static_argnames="family")
def find_starts(
    target: Target, family: Family, center: Array, scatter: Array, noise: Array
) -> Local:
    """The best local normals from the center and from points scattered around it."""
    starts = jnp.concatenate([center[None], center[None] + scatter])
    log_p = flat_log_density(target, family)
    return local_normals(log_p, starts, noise, num_steps=START_STEPS)


def best_of(starts: Local) -> Local:
    """The local normal with the largest ELBO."""
    best = jnp.argmax(starts.elbo)
    return Local(*(leaf[best] for leaf in starts))


@functools.partial(jax.jit, static_argnames=("num_steps", "diagonal"))
def begin(starts: Local, num_steps: int, *, diagonal: bool) -> _fit_normal.NormalState:
    """The state at the best local normal, before the first variational Newton step."""
    best = best_of(starts)
    factor = jnp.diag(conditional_scales(best.factor)) if diagonal else best.factor
    state: _fit_normal.NormalState = _fit_normal.begin(best.mean, factor, num_steps)
    return state


@functools.partial(jax.jit, static_argnames=("family", "tolerance", "diagonal"))
def ascend(
    target: Target,
    family: Family,
    state: _fit_normal.NormalState,
    points: _fit_normal.Points,
    limit: Array,
    tolerance: float,
    diagonal: bool,  # noqa: FBT001
) -> _fit_normal.NormalState:
    """Variational Newton steps."""
    log_p = flat_log_density(target, family)
    return _fit_normal.ascend(
        log_p, state, points, limit=limit, tolerance=tolerance, diagonal=diagonal
    )


@functools.partial(jax.jit, static_argnames=("family", "optimizer", "settings"))
def descend(
    target: Target,
    family: Family,
    optimizer: Any,
    state: _fit_gradient.GradientState,
    key: PRNGKeyArray,
    settings: _fit_gradient.Settings,
    limit: Array,
) -> _fit_gradient.GradientState:
    """Steps of an optax optimizer."""
    return _fit_gradient.descend(target, family, optimizer, state, key, settings, limit=limit)


failing_term = jax.jit(
    _fit_gradient.failing_term, static_argnames=("family", "optimizer", "settings", "gradient")
)


@functools.partial(jax.jit, static_argnames="family")
def log_densities(target: Target, family: Family, draws: Array) -> Array:
    """Log density of every row."""
    return evaluate(flat_log_density(target, family), draws)


@jax.jit
def expect(values: Array, weights: Array, factor: Array) -> Array:
    """ELBO of a normal with that factor by each column of weights, from values of log p."""
    return jax.vmap(lambda column: normal_elbo(column @ values, factor))(weights.T)


@functools.partial(jax.jit, static_argnames="family")
def respond(target: Target, family: Family, params: Any, noise: Array) -> Array:
    """Linear-response factor of a mean-field normal."""
    log_p = flat_log_density(target, family)
    return linear_response(log_p, params["mean"], jnp.exp(params["log_scale"]), noise)


draw_q = jax.jit(draw, static_argnames=("family", "num_samples"))
transported = jax.jit(affine)


def weigh_q(target: Target, family: Family, params: Any, key: PRNGKeyArray) -> Weighted:
    """Weighted draws of q."""
    draws, log_q = draw_q(family, params, key, NUM_DRAWS)
    weighted: Weighted = weigh(draws, log_densities(target, family, draws), log_q)
    return weighted


def weigh_normal(
    target: Target, family: Family, mean: Array, factor: Array, modes: Any, key: PRNGKeyArray
) -> Weighted:
    """Weighted draws of a mixture that starts at N(mean, factor factorᵀ) and the other modes."""
    key_first, key_adapt = jax.random.split(key)
    found = adapt(
        lambda noise: log_densities(target, family, transported(mean, factor, noise)),
        first_mixture(key_first, mean.shape[0], COMPONENTS, *modes),
        key_adapt,
        num_samples=NUM_DRAWS,
        num_rounds=ROUNDS,
    )
    return dataclasses.replace(
        found,
        draws=transported(mean, factor, found.draws),
        log_ratios=found.log_ratios + jnp.sum(jnp.log(jnp.diagonal(factor))),
    )


@jax.jit
def measure(weighted: Weighted) -> tuple[Diagnostics, Estimate]:
    """Diagnostics of the draws and, where they are of q, its ELBO."""
    ratios = weighted.log_ratios
    return summarize(weighted), Estimate(jnp.mean(ratios), standard_error(ratios))


@jax.jit
def lower_factor(factor: Array) -> Array:
    """The Cholesky factor with the same product W Wᵀ."""
    upper = jnp.linalg.qr(factor.T, mode="r")
    return (upper * jnp.sign(jnp.diagonal(upper))[:, None]).T


def other_modes(
    starts: Local, mean: Array, factor: Array, distinct: float = DISTINCT
) -> tuple[Any, bool]:
    """Local normals that q does not cover, in coordinates where q is N(0, I), each mode once."""
    best = float(jnp.max(starts.elbo))
    means: list[Any] = []
    factors: list[Any] = []
    weights: list[Any] = []
    whiten = functools.partial(np.linalg.solve, np.asarray(factor, np.float64))
    for center, spread, elbo in zip(*map(np.asarray, starts), strict=True):
        z, root = whiten(center - np.asarray(mean)), whiten(spread)
        near = [np.linalg.norm(np.linalg.solve(r, z - m)) < distinct
                for m, r in zip(means, factors, strict=True)]  # fmt: skip
        far = min(np.linalg.norm(z), np.linalg.norm(np.linalg.solve(root, z)))
        if elbo > best - NEGLIGIBLE and far > distinct + len(z) ** 0.5 and not any(near):
            means.append(z)
            factors.append(np.linalg.cholesky(root @ root.T))
            weights.append(np.exp(elbo - best))
    d, dtype = len(mean), mean.dtype
    stacked = (
        jnp.asarray(np.reshape(means, (-1, d)), dtype),
        jnp.asarray(np.reshape(factors, (-1, d, d)), dtype),
        jnp.asarray(np.reshape(weights, -1), dtype),
    )
    return stacked, bool(means)
