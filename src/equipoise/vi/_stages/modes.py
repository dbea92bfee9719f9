"""The normals of some coordinates given the others: modes by Newton's method, many at a time."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.traced import Traced
from equipoise._types import Array, Scalar
from equipoise.vi._bounds.density import flat_log_density
from equipoise.vi._families.layout import Layout
from equipoise.vi._stages.beginning import Beginning

_ROWS, CALL = 32, 512  # points whose curvatures are held together, and that a call has
_NUM_STEPS = 16
_TOLERANCE = 1e-3  # nats to the mode: a hundredth of an sd off, which weights make good
_DAMPED = 1e-4  # relative, below which a step is Newton's


def local_normals(
    start: Beginning, free: np.ndarray, points: np.ndarray, noise: np.ndarray
) -> list[np.ndarray]:
    """Draws of the normal of the free coordinates near each point, their log p, and log volumes.

    A draw is m + L⁻ᵀ ε, for the mode m and the Cholesky factor L of minus the curvature there;
    the log volume is log |L|.
    """
    dtype = start.dtype
    fixed = free.astype(dtype), start.sds.astype(dtype), start.positions
    parts = []
    for i in range(0, len(points), CALL):
        n = len(points[i : i + CALL])
        filled = np.tile(points[i], (2, CALL, 1)).astype(dtype)
        filled[:, :n] = points[i : i + n], noise[i : i + n]
        shaped = filled.reshape(2, -1, _ROWS, len(free))
        found = _local_normals(start.density, *shaped, *fixed)
        parts.append([np.asarray(x).reshape(CALL, *x.shape[2:])[:n] for x in found])
    return [*map(np.concatenate, zip(*parts, strict=True))]


@functools.partial(jax.jit, static_argnames="positions")
def _local_normals(
    density: Traced, points: Array, noises: Array, free: Array, sds: Array, positions: Layout
) -> tuple[Array, Array, Array]:
    log_p = flat_log_density(density.prepared(), positions)

    def row(point: Array, noise: Array) -> tuple[Array, Scalar, Scalar]:
        mode, root = _mode(log_p, point, free, sds)
        away = jax.scipy.linalg.solve_triangular(root, noise, trans=1, lower=True)
        drawn = mode + free * away
        return drawn, log_p(drawn), jnp.sum(jnp.log(jnp.diagonal(root)))

    return jax.lax.map(lambda rows: jax.vmap(row)(*rows), (points, noises))


class _Place(NamedTuple):
    """A point of Newton's ascent, what is known there, and the step that comes next."""

    point: Array
    value: Scalar
    slope: Array
    curvature: Array
    damping: Scalar
    step: Array
    gain: Scalar
    count: Array


def _mode(
    log_p: Callable[[Array], Scalar], start: Array, free: Array, sds: Array
) -> tuple[Array, Array]:
    """The mode of the free coordinates, and a Cholesky factor of minus the curvature there.

    Rows of the others are those of the identity.
    """
    eye = jnp.eye(len(start), dtype=start.dtype)

    def look(z: Array) -> tuple[Scalar, Array, Array]:
        (value, slope), along = jax.linearize(jax.value_and_grad(log_p), z)
        curvature = -jax.vmap(along)(eye)[1]
        return value, free * slope, free[:, None] * curvature * free[None]

    def size_of(curvature: Array) -> Array:
        return free * (jnp.abs(jnp.diagonal(curvature)) + sds**-2)

    def root_of(curvature: Array, damping: Scalar) -> Array:
        return jnp.linalg.cholesky(curvature + jnp.diag(damping * size_of(curvature) + 1 - free))

    def busy(at: _Place) -> Array:
        return ~(at.gain * (1 + at.damping) < _TOLERANCE) & (at.count < _NUM_STEPS)

    def ascend(at: _Place) -> _Place:
        there = at.point + at.step
        known = look(there)
        finite = jnp.isfinite(known[0]) & jnp.all(jnp.isfinite(known[2])) & jnp.isfinite(at.gain)
        better = finite & (known[0] >= at.value)
        relaxed = jnp.where(at.damping > _DAMPED, at.damping / 8, 0)
        damping = jnp.where(better, relaxed, jnp.maximum(8 * at.damping, 10 * _DAMPED))
        value, slope, curvature = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), known, (at.value, at.slope, at.curvature)
        )
        step = jax.scipy.linalg.cho_solve((root_of(curvature, damping), True), slope)
        point, gain = jnp.where(better, there, at.point), jnp.vdot(slope, step)
        return _Place(point, value, slope, curvature, damping, step, gain, at.count + 1)

    zero = jnp.zeros((), start.dtype)
    # The first step goes nowhere, so that the density is in the program once.
    first = _Place(start, zero - jnp.inf, 0 * start, 0 * eye, zero, 0 * start, zero + 1, 0)
    last = jax.lax.while_loop(busy, ascend, first._replace(count=jnp.int32(0)))
    # Without damping where that is possible, with it where not, and in the worst case by axes.
    found = jnp.diag(1 - free + size_of(last.curvature) ** 0.5)
    for damping in (last.damping, zero):
        root = root_of(last.curvature, damping)
        found = jnp.where(jnp.all(jnp.isfinite(root)), root, found)
    return last.point, found
