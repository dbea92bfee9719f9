"""Where a fit begins: the best local normal along Newton paths from several points."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import value_error
from equipoise._types import Array, PRNGKeyArray, PyTree, Scalar
from equipoise.vi._families.draws import affine
from equipoise.vi._fit.target import Target, slope

_NUM_STEPS = 80
_NUM_FIRST_DRAWS = 64
_DISTINCT = 5.0  # sds between modes that one normal does not cover
_NEGLIGIBLE = 7.0  # nats of ELBO: a mode with less than a thousandth of the mass


class Local(NamedTuple):
    """A normal around a point of a path: mean, factor W of the covariance W Wᵀ, and its ELBO."""

    mean: Array
    factor: Array
    elbo: Scalar


class Modes(NamedTuple):
    """Local normals, one a row: means, Cholesky factors, and weights relative to the best one."""

    means: Array
    factors: Array
    weights: Array


def starting_point(target: Target, start: PyTree) -> Array:
    """The flat vector to begin at, where the log density and its gradient are finite."""
    family, dtype = target.family, target.family.positions.dtype
    if dtype.itemsize < 4:  # matrices are factorized in float32 at least
        dtype = jnp.dtype(jnp.float32)
    if start is not None:
        center = family.ravel(start)
    elif family.placed:
        center = jnp.zeros(family.dimension, dtype)
    else:  # the family knows where it begins
        key = jax.random.key(0)
        drawn = family.sample(family.init(key), key, _NUM_FIRST_DRAWS)
        center = jnp.mean(jax.vmap(family.ravel)(drawn), axis=0)
    center = center.astype(dtype)
    value, gradient = slope(target, center)
    for term, number in (("value", value), ("gradient", gradient)):
        if not bool(jnp.all(jnp.isfinite(number))):
            raise value_error(
                "log_density",
                f"must have a finite {term} at the start",
                str(number),
                "Give a `start` inside its domain, or a `support` that keeps positions there.",
            )
    return center


def find_starts(
    target: Target, center: Array, key: PRNGKeyArray, noise: Array, num_restarts: int
) -> Local:
    """The best local normals from the center and ``num_restarts`` − 1 points around it."""
    scatter = jax.random.normal(key, (num_restarts - 1, center.shape[0]), center.dtype)
    return _newton_paths(target, center, scatter, noise)


@jax.jit
def _newton_paths(target: Target, center: Array, scatter: Array, noise: Array) -> Local:
    starts = jnp.concatenate([center[None], center[None] + scatter])
    return _local_normals(target.flat, starts, noise)


class _Path(NamedTuple):
    """One Newton path: the current point, its damping, the best normal so far."""

    step: Array
    point: Array
    value: Scalar
    damping: Scalar
    best: Local
    done: Array


def normal_elbo(mean_log_p: Scalar, factor: Array) -> Scalar:
    """Mean of the log density plus the entropy of N(m, W Wᵀ)."""
    d = factor.shape[0]
    entropy = jnp.linalg.slogdet(factor)[1] + 0.5 * d * (1 + jnp.log(2 * jnp.pi))
    return mean_log_p + entropy.astype(mean_log_p.dtype)


def conditional_scales(factor: Array) -> Array:
    """Standard deviation of each coordinate of N(m, W Wᵀ) given all the others."""
    return jnp.sum(jnp.linalg.inv(factor) ** 2, axis=0) ** -0.5


def _local_normals(log_p: Callable[[Array], Scalar], starts: Array, noise: Array) -> Local:
    """Newton ascent from every start; keeps the point whose local normal has the largest ELBO.

    Where a mode exists the path ends there, and the normal is Laplace's. Where none does (a
    funnel climbs for ever) an earlier point wins, as in :cite:t:`zhang2022`.
    """
    eps = np.finfo(starts.dtype).eps
    d = starts.shape[1]

    def step(path: _Path) -> _Path:
        gradient = jax.grad(log_p)(path.point)
        precision = -jax.hessian(log_p)(path.point)
        # Unit curvature along every axis: the units of the coordinates do not matter.
        size = jnp.sqrt(jnp.abs(jnp.diagonal(precision)))
        size = jnp.where(size > 0, size, 1.0)
        values, axes = jnp.linalg.eigh(precision / size[:, None] / size[None, :])
        curvature = jnp.maximum(jnp.abs(values), d * eps)
        ascent = (axes.T @ (gradient / size)) / (curvature + path.damping)
        point = path.point + (axes @ ascent) / size
        value = log_p(point)
        factor = axes * curvature[None] ** -0.5 / size[:, None]
        elbo = normal_elbo(jnp.mean(jax.vmap(log_p)(affine(path.point, factor, noise))), factor)
        elbo = jnp.where(jnp.isfinite(elbo), elbo, -jnp.inf)
        better = elbo > path.best.elbo
        here = Local(path.point, factor, elbo)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), here, path.best)
        slack = 4 * eps * jnp.abs(path.value)
        accept = jnp.isfinite(value) & (value >= path.value - slack)
        gain = jnp.sum((axes.T @ (gradient / size)) ** 2 / curvature)
        return _Path(
            step=path.step + 1,
            point=jnp.where(accept, point, path.point),
            value=jnp.where(accept, value, path.value),
            damping=jnp.where(
                accept,
                jnp.where(path.damping > 1e-3, path.damping / 5, 0.0),
                jnp.maximum(path.damping * 6, 1e-2),
            ),
            best=best,
            done=(gain < jnp.sqrt(eps)) | (path.damping > 1 / eps) | ~jnp.isfinite(gain),
        )

    def run(start: Array) -> Local:
        factor = jnp.eye(d, dtype=start.dtype)
        lowest = jnp.full((), -jnp.inf, start.dtype)
        path = _Path(
            step=jnp.zeros((), jnp.int32),
            point=start,
            value=log_p(start),
            damping=jnp.zeros((), start.dtype),
            best=Local(start, factor, lowest),
            done=jnp.zeros((), bool),
        )
        more = lambda path: ~path.done & (path.step < _NUM_STEPS)  # noqa: E731
        return jax.lax.while_loop(more, step, path).best

    return jax.vmap(run)(starts)


def best_of(starts: Local) -> Local:
    """The local normal with the largest ELBO."""
    best = jnp.argmax(starts.elbo)
    return Local(*(leaf[best] for leaf in starts))


@jax.jit
def lower_factor(factor: Array) -> Array:
    """The Cholesky factor with the same product W Wᵀ."""
    upper = jnp.linalg.qr(factor.T, mode="r")
    return (upper * jnp.sign(jnp.diagonal(upper))[:, None]).T


def other_modes(starts: Local, mean: Array, factor: Array, distinct: float = _DISTINCT) -> Modes:
    """Local normals that q does not cover, in coordinates where q is N(0, I), each mode once."""
    best = float(jnp.max(starts.elbo))
    means: list[np.ndarray] = []
    factors: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    whiten = functools.partial(np.linalg.solve, np.asarray(factor, np.float64))
    for center, spread, elbo in zip(*map(np.asarray, starts), strict=True):
        z, root = whiten(center - np.asarray(mean)), whiten(spread)
        near = [np.linalg.norm(np.linalg.solve(r, z - m)) < distinct
                for m, r in zip(means, factors, strict=True)]  # fmt: skip
        far = min(np.linalg.norm(z), np.linalg.norm(np.linalg.solve(root, z)))
        if elbo > best - _NEGLIGIBLE and far > distinct + len(z) ** 0.5 and not any(near):
            means.append(z)
            factors.append(np.linalg.cholesky(root @ root.T))
            weights.append(np.exp(elbo - best))
    d, dtype = len(mean), mean.dtype
    return Modes(
        jnp.asarray(np.reshape(means, (-1, d)), dtype),
        jnp.asarray(np.reshape(factors, (-1, d, d)), dtype),
        jnp.asarray(np.reshape(weights, -1), dtype),
    )


def no_modes(mean: Array) -> Modes:
    """No local normals beside the one at hand."""
    d, dtype = mean.shape[0], mean.dtype
    return Modes(jnp.zeros((0, d), dtype), jnp.zeros((0, d, d), dtype), jnp.zeros(0, dtype))
