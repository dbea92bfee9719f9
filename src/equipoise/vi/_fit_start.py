"""Where a fit begins: the best local normal along Newton paths from several points."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, Scalar

Density = Callable[[Array], Scalar]


class Local(NamedTuple):
    """A normal around a point of a path: mean, factor W of the covariance W Wᵀ, and its ELBO."""

    mean: Array
    factor: Array
    elbo: Scalar


class Path(NamedTuple):
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
    elbo: Scalar = mean_log_p + entropy.astype(mean_log_p.dtype)
    return elbo


def conditional_scales(factor: Array) -> Array:
    """Standard deviation of each coordinate of N(m, W Wᵀ) given all the others."""
    scales: Array = jnp.sum(jnp.linalg.inv(factor) ** 2, axis=0) ** -0.5
    return scales


def affine(mean: Array, factor: Array, noise: Array) -> Array:
    """Rows m + W ε."""
    return mean[None] + noise @ factor.T


def local_normals(log_p: Density, starts: Array, noise: Array, *, num_steps: int) -> Local:
    """Newton ascent from every start; keeps the point whose local normal has the largest ELBO.

    Where a mode exists the path ends there, and the normal is Laplace's. Where none does (a
    funnel climbs for ever) an earlier point wins, as in :cite:t:`zhang2022`.
    """
    eps = np.finfo(starts.dtype).eps
    d = starts.shape[1]

    def step(path: Path) -> Path:
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
        return Path(
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
        path = Path(
            step=jnp.zeros((), jnp.int32),
            point=start,
            value=log_p(start),
            damping=jnp.zeros((), start.dtype),
            best=Local(start, factor, lowest),
            done=jnp.zeros((), bool),
        )
        more = lambda path: ~path.done & (path.step < num_steps)  # noqa: E731
        return jax.lax.while_loop(more, step, path).best

    return jax.vmap(run)(starts)
