"""Adaptive importance sampling: a mixture of Student t that learns the target from its draws."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp

from equipoise._types import Array, PRNGKeyArray
from equipoise.vi._families.draws import affine
from equipoise.vi._weights.weighted import Weighted, weigh

_DEGREES = 6  # tails heavier than those of most targets, with four moments
_SMALLEST_WEIGHT = 0.01
_EXCELLENT = 0.9  # share of effective draws that ends the adaptation


class _Mixture(NamedTuple):
    """Student t components: weights, means, Cholesky factors of the scale matrices."""

    weights: Array
    means: Array
    factors: Array


def _component_log_probs(mixture: _Mixture, draws: Array) -> tuple[Array, Array]:
    """Log of weight times density, and Mahalanobis distance, each (components, draws)."""
    d = draws.shape[1]
    constant = (
        gammaln((_DEGREES + d) / 2) - gammaln(_DEGREES / 2) - 0.5 * d * np.log(_DEGREES * np.pi)
    )

    def one(weight: Array, mean: Array, factor: Array) -> tuple[Array, Array]:
        whitened = jax.scipy.linalg.solve_triangular(factor, (draws - mean[None]).T, lower=True)
        distance = jnp.sum(whitened**2, axis=0)
        volume = jnp.sum(jnp.log(jnp.diagonal(factor)))
        tail = -0.5 * (_DEGREES + d) * jnp.log1p(distance / _DEGREES)
        return jnp.log(weight) + constant.astype(draws.dtype) - volume + tail, distance

    return jax.vmap(one)(*mixture)


def _sample(key: PRNGKeyArray, mixture: _Mixture, num_samples: int) -> Array:
    """Draws, stratified over the components."""
    d, dtype = mixture.means.shape[1], mixture.means.dtype
    levels = (jnp.arange(num_samples, dtype=dtype) + 0.5) / num_samples
    component = jnp.searchsorted(jnp.cumsum(mixture.weights), levels)
    component = jnp.minimum(component, mixture.weights.shape[0] - 1)
    noise = jax.random.normal(key, (num_samples, d + _DEGREES), dtype)
    chi_squared = jnp.sum(noise[:, d:] ** 2, axis=1, keepdims=True)
    normal = noise[:, :d] * jnp.sqrt(_DEGREES / chi_squared)
    step = jnp.zeros_like(normal)
    for k in range(mixture.weights.shape[0]):
        mine = (component == k)[:, None]
        step = jnp.where(mine, affine(mixture.means[k], mixture.factors[k], normal), step)
    return step


@functools.partial(jax.jit, static_argnames="num_samples")
def _propose(key: PRNGKeyArray, mixture: _Mixture, num_samples: int) -> tuple[Array, Array]:
    """Draws and their log densities."""
    draws = _sample(key, mixture, num_samples)
    return draws, logsumexp(_component_log_probs(mixture, draws)[0], axis=0)


def _temper(log_ratios: Array, wanted: float) -> Array:
    """Log weights raised to the largest power ≤ 1 that keeps ``wanted`` effective draws."""

    def effective(power: Array) -> Array:
        log_weights = power * log_ratios
        return jnp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        enough = effective(middle) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    one = jnp.ones((), log_ratios.dtype)
    low, _ = jax.lax.fori_loop(0, 20, halve, (0 * one, one))
    power = jnp.where(effective(one) >= wanted, one, low)
    return power * log_ratios - logsumexp(power * log_ratios)


@jax.jit
def _improve(mixture: _Mixture, draws: Array, log_ratios: Array) -> _Mixture:
    """One EM step towards the weighted draws, which lowers KL(target ‖ mixture)."""
    n, d = draws.shape
    log_ratios = jnp.where(jnp.isfinite(log_ratios), log_ratios, np.finfo(draws.dtype).min / 4)
    log_ratios = log_ratios - jnp.max(log_ratios)
    log_weights = _temper(log_ratios, min(30.0 * d, n / 4))
    joint, distance = _component_log_probs(mixture, draws)
    share = jnp.exp(joint + (log_weights - logsumexp(joint, axis=0))[None])
    pull = share * (_DEGREES + d) / (_DEGREES + distance)
    weights = jnp.sum(share, axis=1)
    tiny = np.finfo(draws.dtype).tiny ** 0.5
    means = (pull @ draws) / jnp.maximum(jnp.sum(pull, axis=1), tiny)[:, None]
    centered = draws[None] - means[:, None]
    scatter = jnp.einsum("kn,kni,knj->kij", pull, centered, centered)
    # A component with little weight leans on the identity, the shape of the first proposal.
    prior = 10.0 * (d + 1) / n
    scatter = scatter + prior * jnp.eye(d, dtype=draws.dtype)[None]
    scatter = scatter / (weights + prior)[:, None, None]
    weights = jnp.maximum(weights, _SMALLEST_WEIGHT)
    return _Mixture(weights / jnp.sum(weights), means, jnp.linalg.cholesky(scatter))


def first_mixture(
    key: PRNGKeyArray, size: int, components: int, means: Array, factors: Array, weights: Array
) -> _Mixture:
    """Equal parts of unit components scattered around 0 and of the given other modes."""
    scattered = 0.7 * jax.random.normal(key, (components, size), means.dtype)
    scattered = scattered.at[0].set(0.0)
    eye = jnp.broadcast_to(jnp.eye(size, dtype=means.dtype), (components, size, size))
    ours = jnp.full(components, 1.0 / components, means.dtype)
    total = jnp.concatenate([ours, jnp.maximum(weights, _SMALLEST_WEIGHT)])
    return _Mixture(
        total / jnp.sum(total),
        jnp.concatenate([scattered, means]),
        jnp.concatenate([eye, factors]),
    )


def adapt(
    log_p: Callable[[Array], Array],
    mixture: _Mixture,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    num_rounds: int,
    patience: int = 3,
) -> Weighted:
    """Rounds of sampling and EM, then fresh draws from the best mixture.

    ``log_p`` takes the draws of a round, one a row. Adapts until the effective sample size has not
    grown by a tenth for ``patience`` rounds. The last round draws from the best mixture,
    independently of the draws it was chosen by. The loop is Python's, so that only ``log_p``
    compiles anew for a new target.
    """

    def draw_round(index: int, mixture: _Mixture) -> Weighted:
        draws, log_q = _propose(jax.random.fold_in(key, index), mixture, num_samples)
        return weigh(draws, log_p(draws), log_q)

    best, best_efficiency, best_round = mixture, 0.0, 0
    for index in range(num_rounds - 1):
        weighted = draw_round(index, mixture)
        efficiency = float(weighted.effective_sample_size) / num_samples
        if not float(weighted.khat) < 1:
            efficiency *= 0.1
        if efficiency > 1.1 * best_efficiency:
            best, best_efficiency, best_round = mixture, efficiency, index
        if index - best_round >= patience or efficiency > _EXCELLENT:
            break
        mixture = _improve(mixture, weighted.draws, weighted.log_ratios)
    return draw_round(index + 1, best)
