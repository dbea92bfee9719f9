"""The log density as data, and the one program that a fit asks it by, a chunk of points at a time.

Values and gradients are branches of one program of one shape, and curvatures are differences of
gradients, so that a fit compiles its log density once, whatever it does with it. The rest of a fit
runs on the host. What the log density closes over keeps its sharding, and other data of the same
shapes compile nothing.
"""

import dataclasses
import functools

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
_BLOCK = 64  # points whose gradients are found together
_DEAR = 1e6  # operations of a density for which another call of its program is no loss
_RESOLVED = 64  # roundings of a point, within which no other is told from it


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

    @functools.cached_property
    def rows(self) -> int:
        """Points in a chunk: few where one is dear, as chunks are filled up."""
        return _BLOCK if self.log_density.work > _DEAR else _num_rows(self.positions.size)

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

    def curvatures(
        self, points: np.ndarray, frames: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log densities, gradients and second derivatives; up to ``MAX_CURVED`` coordinates.

        Differences of gradients along the columns of each point's frame, or of one frame for all,
        that are best as long as sds: a program that holds second derivatives takes twice as long
        to compile. Not a number where columns are none that the dtype can tell apart.
        """
        n, d = points.shape
        columns, center = np.swapaxes(frames, -2, -1), points[:, None]
        size = np.maximum(np.abs(center), np.finfo(float).tiny)
        relative = np.max(np.abs(columns) / size, axis=2)
        resolved = _RESOLVED * float(np.finfo(self.dtype).eps) / relative
        steps = columns * np.maximum(_step(self.dtype), resolved)[:, :, None]
        rows = np.concatenate([center, center + steps, center - steps], axis=1, dtype=self.dtype)
        found = self.gradients(rows.reshape(-1, d))
        values, gradients = found[0].reshape(n, -1), found[1].reshape(n, -1, d)
        # Between points as they were rounded.
        apart, change = (_halves_apart(x[:, 1:]) for x in (rows, gradients))
        regular = np.linalg.slogdet(apart)[0][:, None, None] != 0
        curvature = np.linalg.solve(np.where(regular, apart, np.eye(d)), change)
        curvature = np.where(regular, 0.5 * (curvature + np.swapaxes(curvature, 1, 2)), np.nan)
        return values[:, 0], gradients[:, 0], curvature

    def _ask(self, order: int, points: np.ndarray) -> list[np.ndarray]:
        """Values and, for order 1, gradients."""
        points = np.asarray(points, self.dtype)
        n = len(points)
        evaluated(n)
        size = self.rows
        chunks = [points[first : first + size] for first in range(0, n, size)]
        # All of them are on their way before the first is waited for.
        found = [
            evaluate(
                self,
                np.int32(order),
                # What fills a chunk up are points that are there, not ones of our making.
                _filled(chunk, size),
                np.int32(-(-len(chunk) // _BLOCK)),
            )
            for chunk in chunks
        ]
        counts = [len(chunk) for chunk in chunks]
        parts = [*zip(*found, strict=True)][: 1 + order]
        return [
            np.concatenate([np.asarray(x)[:m] for x, m in zip(part, counts, strict=True)])
            for part in parts
        ]


def _step(dtype: np.dtype) -> float:
    """How far apart gradients are, in sds, whose differences err least by rounding and by bend."""
    return float(np.finfo(dtype).eps) ** 0.25


def _halves_apart(rows: np.ndarray) -> np.ndarray:
    """The first half of the rows less the second."""
    first, second = np.split(rows.astype(float), 2, axis=-2)
    return first - second


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


@jax.jit
def evaluate(target: Target, order: Array, points: Array, blocks: Array) -> tuple[Array, Array]:
    """Values of the rows, and 0, or the gradients of the first blocks of them with their values."""
    over = target.log_density.over
    # Once for both branches, and not in each of them.
    target = dataclasses.replace(target, log_density=target.log_density.prepared())
    nothing = jnp.zeros(len(points), points.dtype), jnp.zeros_like(points)

    def values() -> tuple[Array, Array]:
        return over(target.flat)(points), nothing[1]

    def gradients() -> tuple[Array, Array]:
        def add(index: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            first = index * _BLOCK  # the last block begins earlier where it would not fit
            here = jax.lax.dynamic_slice_in_dim(points, first, _BLOCK)
            new = over(jax.value_and_grad(target.flat))(here)
            update = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
            return jax.tree.map(lambda all_, part: update(all_, part, first), found, new)

        return jax.lax.fori_loop(0, blocks, add, nothing)

    return jax.lax.switch(order, [values, gradients])


def linear_response(
    target: Target, mean: np.ndarray, scale: np.ndarray, noise: np.ndarray
) -> np.ndarray | None:
    """Cholesky factor of the linear-response covariance; None where the optimum is none.

    Adding t·z to log p moves the optimal mean by Σ t, so Σ is the block of the means in the
    inverse Hessian of the negative ELBO. For a normal target it is exact. The Hessian is that of
    the points z = m + s (x + e^y ε) at x = y = 0.
    """
    d = noise.shape[1]
    step, rows = _step(target.dtype), []
    for change in step * np.concatenate([np.eye(2 * d), -np.eye(2 * d)]):
        stretched = np.exp(change[d:]) * noise
        gradients = scale * target.gradients(mean + scale * (change[:d] + stretched))[1]
        rows.append(np.mean(np.hstack([gradients, stretched * gradients]), axis=0))
    slopes = _halves_apart(np.asarray(rows)) / (-2 * step)
    hessian = 0.5 * (slopes + slopes.T)
    of_means, mixed, of_scales = hessian[:d, :d], hessian[:d, d:], hessian[d:, d:]
    try:
        np.linalg.cholesky(of_scales)
        precision = of_means - mixed @ np.linalg.solve(of_scales, mixed.T)
        root = np.linalg.inv(np.linalg.cholesky(0.5 * (precision + precision.T)))
        return scale[:, None] * np.linalg.cholesky(root.T @ root)
    except np.linalg.LinAlgError:
        return None
