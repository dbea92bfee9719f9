"""The log density as data, and the one program that a fit asks it by, a chunk of points at a time.

Values, gradients and curvatures are branches of one program of one shape, so that a fit compiles
its log density once, whatever it does with it. The rest of a fit runs on the host. What the log
density closes over keeps its sharding, and other data of the same shapes compile nothing.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.traced import Traced
from equipoise._types import Array, Scalar, record, static_field
from equipoise.vi._bounds.density import LogDensity, density_of, flat_log_density
from equipoise.vi._families.family import Family
from equipoise.vi._families.layout import Layout
from equipoise.vi._weights.effort import evaluated

MAX_CURVED = 200  # coordinates above which no d × d matrix is formed
_MIN_POINTS, _POINTS_EACH = 512, 16  # of an ELBO, in all and for each coordinate
_MAX_ROWS = 512  # points in a chunk, so that memory does not grow with their number
_MANY = 1024  # points whose curvatures are held at once
_MAX_BLOCK = 4  # points whose curvatures are found together, at most


@record
class Expansion:
    """A value and slope at a point, and a curvature or None, as a function of flat vectors."""

    center: Array
    value: Scalar
    slope: Array
    curvature: Array | None = None

    def __call__(self, vector: Array) -> Scalar:
        step = vector - self.center
        linear = self.value + self.slope @ step
        return linear if self.curvature is None else linear + 0.5 * step @ self.curvature @ step


@record
class Target:
    """A log density of positions, asked at flat vectors, one a row of arrays on the host.

    Attributes:
        log_density: Log p of one position.
        positions: How positions are made of flat vectors.
        lacking: What log p lacks of the density that it stands for, or None.
    """

    log_density: Traced
    positions: Layout = static_field()
    lacking: Expansion | None = None

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """What it is asked in, float32 at least."""
        return asked_in(self.positions)

    def flat(self, vector: Array) -> Scalar:
        """Log density of one flat vector, with the volume factor of the supports."""
        value = flat_log_density(self.log_density, self.positions)(vector)
        return value if self.lacking is None else value + self.lacking(vector)

    def values(self, points: np.ndarray) -> np.ndarray:
        """Log densities."""
        return self._ask(0, points)[0]

    def gradients(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities and their gradients."""
        values, gradients = self._ask(1, points)
        return values, gradients

    def curvatures(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log densities, gradients and second derivatives; up to ``MAX_CURVED`` coordinates."""
        n, d = points.shape
        values, rows = self._ask(2, points)
        derivatives = rows.reshape(n, d + 1, d)
        return values, derivatives[:, 0], derivatives[:, 1:]

    def _ask(self, order: int, points: np.ndarray) -> list[np.ndarray]:
        """Values and, from order 1 on, rows of derivatives."""
        points = np.asarray(points, self.dtype)
        n, d = points.shape
        evaluated(n * (1 + d) if order == 2 else n)
        block, number = _blocks(d)
        size, each = (block * number, d + 1) if order == 2 else (_num_rows(d), 1)
        chunks = [points[first : first + size] for first in range(0, n, size)]
        # All of them are on their way before the first is waited for.
        found = [
            _evaluate(
                self,
                np.int32(order),
                # What fills a chunk up are points that are there, not ones of our making.
                _filled(chunk, _num_rows(d)),
                np.int32(-(-len(chunk) // max(block, 1))),
            )
            for chunk in chunks
        ]
        counts = [len(chunk) for chunk in chunks]
        values, rows = zip(*found, strict=True)
        parts = [(values, 1), (rows, each)] if order else [(values, 1)]
        return [
            np.concatenate([np.asarray(x)[: m * k] for x, m in zip(part, counts, strict=True)])
            for part, k in parts
        ]


def _filled(chunk: np.ndarray, number: int) -> np.ndarray:
    """The rows, and the first again until there are that many."""
    missing = number - len(chunk)
    return np.concatenate([chunk, np.tile(chunk[:1], (missing, 1))]) if missing else chunk


def trace(log_density: LogDensity, family: Family, lacking: Expansion | None = None) -> Target:
    """The traced log density, which must return one floating-point number."""
    density = density_of("log_density", log_density, family)
    # On the device once, not at each of the calls that read it.
    target: Target = jax.device_put(Target(density, family.positions, lacking))
    return target


def asked_in(positions: Layout) -> np.dtype:
    """Matrices are factorized in float32 at least."""
    return np.dtype(np.float32) if positions.dtype.itemsize < 4 else positions.dtype


def num_points(size: int, wanted: int | None = None) -> int:
    """Points of the ELBO that natural-gradient steps maximize."""
    return max(wanted or _MIN_POINTS, _POINTS_EACH * size)


def _num_rows(size: int) -> int:
    """Points in a chunk, so many that those of a fit with its defaults fill chunks."""
    number = num_points(size)
    return number // -(-number // _MAX_ROWS)


def _blocks(size: int) -> tuple[int, int]:
    """Points of a block, and blocks in a chunk, whose curvatures fit where gradients do."""
    if size > MAX_CURVED:
        return 0, 0
    block = min(_MAX_BLOCK, _num_rows(size) // (size + 1))
    return block, _num_rows(size) // (block * (size + 1))


@jax.jit
def _evaluate(target: Target, order: Array, points: Array, blocks: Array) -> tuple[Array, Array]:
    """Values of the rows, and 0, their gradients, or derivatives of the first blocks of them.

    The derivatives of a point are its gradient and the rows of its second derivatives.
    """
    rows, d = points.shape
    block, _ = _blocks(d)
    over = target.log_density.over
    # Once for all branches, and not in each of them.
    target = dataclasses.replace(target, log_density=target.log_density.prepared())
    nothing = jnp.zeros(rows, points.dtype), jnp.zeros((rows, d), points.dtype)

    def values() -> tuple[Array, Array]:
        return over(target.flat)(points), nothing[1]

    def gradients() -> tuple[Array, Array]:
        return over(jax.value_and_grad(target.flat))(points)

    def curvatures() -> tuple[Array, Array]:
        def add(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            first = index * block
            here = jax.lax.dynamic_slice_in_dim(points, first, block)
            value, derivatives = over(functools.partial(second_order, target.flat))(here)
            below = derivatives.reshape(-1, d)
            return (
                jax.lax.dynamic_update_slice_in_dim(found[0], value, first, 0),
                jax.lax.dynamic_update_slice_in_dim(found[1], below, first * (d + 1), 0),
            )

        return jax.lax.fori_loop(0, blocks, add, nothing)

    branches = [values, gradients, curvatures] if block else [values, gradients]
    return jax.lax.switch(order, branches)


def second_order(log_p: Callable[[Array], Scalar], point: Array) -> tuple[Scalar, Array]:
    """Value; gradient and second derivatives, one row more than columns."""
    (value, gradient), along = jax.linearize(jax.value_and_grad(log_p), point)
    _, curvature = jax.vmap(along)(jnp.eye(point.shape[0], dtype=point.dtype))
    return value, jnp.concatenate([gradient[None], curvature])


def linear_response(
    target: Target, mean: np.ndarray, scale: np.ndarray, noise: np.ndarray
) -> np.ndarray | None:
    """Cholesky factor of the linear-response covariance; None where the optimum is none.

    Adding t·z to log p moves the optimal mean by Σ t, so Σ is the block of the means in the
    inverse Hessian of the negative ELBO. For a normal target it is exact. The Hessian is that of
    the points z = m + s (x + e^y ε) at x = y = 0.
    """
    n, d = noise.shape
    hessian = np.zeros((2, 2, d, d))
    for at in range(0, n, _MANY):
        eps = noise[at : at + _MANY]
        _, gradients, curvatures = target.curvatures(mean + scale * eps)
        hessian[0, 0] -= np.sum(curvatures, axis=0)
        hessian[0, 1] -= np.einsum("nij,nj->ij", curvatures, eps)
        hessian[1, 1] -= np.einsum("nij,ni,nj->ij", curvatures, eps, eps)
        hessian[1, 1] -= np.diag(np.sum(gradients * eps, axis=0) / scale)
    (of_means, mixed), (_, of_scales) = hessian * (scale[:, None] * scale) / n
    try:
        np.linalg.cholesky(of_scales)
        precision = of_means - mixed @ np.linalg.solve(of_scales, mixed.T)
        root = np.linalg.inv(np.linalg.cholesky(0.5 * (precision + precision.T)))
        return scale[:, None] * np.linalg.cholesky(root.T @ root)
    except np.linalg.LinAlgError:
        return None
