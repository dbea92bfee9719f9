"""The normals of some coordinates given the others: modes by Newton's method, many at a time."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.traced import Traced, traced
from equipoise._types import Array, Scalar, record, static_field
from equipoise.vi._families.layout import Layout
from equipoise.vi._stages import banded
from equipoise.vi._stages.beginning import GRADIENT, Beginning
from equipoise.vi._stages.newton import mode_from, normal_at
from equipoise.vi._weights.effort import evaluated
from equipoise.vi._weights.growth import Draws

# Points of a call, and many more where few diagonals make long loops of small steps.
_CHUNK, _MANY_TOGETHER = 128, 512
_DRAWS, _EACH = 16, 6  # of a normal: at least, and coordinates for one more, as weights spread
_TOGETHER = 2**17  # operations to factorize those that are found together, without threads
_MAX_FULL = 512  # rows of a full matrix
_SHARE, _WIDER = 0.25, 2.0  # of draws that are wider, by this over √coordinates
_ZERO, _MANY = 1e-10, 16  # of the diagonal: entries that are rounding; and more than neighbors
_MOST_SHARED = 4  # drivers that only have many of them


class _Normals(NamedTuple):
    """What is found near points.

    Attributes:
        modes: Of the coordinates that follow.
        draws: One draw of each local normal, chosen among several by their weights, log p, and the
            log density that makes up for the choice.
        log_mass: Laplace's approximation of the integral of p over them.
    """

    modes: np.ndarray
    draws: Draws
    log_mass: np.ndarray


@record
class Following:
    """Coordinates that follow the others, in an order that keeps neighbors together.

    Attributes:
        density: Log p of one position.
        order: Their flat indices.
        scales: Lengths that damping is relative to.
        positions: How positions are made of flat vectors.
        still: Leaves that have none of them. What a density computes from those alone, the factor
            of a covariance say, it computes once for a point, as they are no part of derivatives.
        width: Diagonals of their second derivatives below the main one; None where full.
    """

    density: Traced
    order: Array
    scales: Array
    positions: Layout = static_field()
    still: tuple[bool, ...] = static_field()
    width: int | None = static_field()

    @property
    def work(self) -> float:
        """Elementary operations of an evaluation on the way to a normal, about."""
        n = len(self.order)
        point: Array = jax.device_put(np.zeros(self.positions.size, self.scales.dtype))
        around = traced(lambda x: _log_density_of(self, point)(x), self.scales)
        along = n if self.width is None else self.width + 1
        return GRADIENT * around.repeated_work + n * along

    @property
    def num_draws(self) -> int:
        """Draws of each normal, of which one is chosen."""
        return max(_DRAWS, len(self.order) // _EACH)

    @property
    def fewest(self) -> float:
        """Evaluations that a normal takes at least."""
        return len(banded.directions(len(self.order), self.width)) + self.num_draws + 2

    def normals(self, points: np.ndarray, rng: np.random.Generator) -> _Normals:
        """Draws of the normals near each point, around modes, of the curvature there.

        Several draws share a normal, which costs far more than they do, and one of them is chosen.
        """
        dtype, parts = self.scales.dtype, []
        chunk = _CHUNK if self.width is None else _MANY_TOGETHER
        for first in range(0, len(points), chunk):
            here = points[first : first + chunk]
            shape = chunk, self.num_draws, len(self.order)
            noise, luck = rng.standard_normal(shape), rng.random(shape[:2])
            # Some are wider, so that tails are covered.
            noise *= np.where(luck < _SHARE, _wide(shape[2]), 1.0)[..., None]
            found = _normals(
                self, *(x.astype(dtype) for x in (_filled(here, chunk), noise, rng.random(chunk)))
            )
            *numbers, evaluations = (np.asarray(x) for x in found)
            evaluated(int(np.sum(evaluations)))
            parts.append([x[: len(here)] for x in numbers])
        modes, drawn, *logs = map(np.concatenate, zip(*parts, strict=True))
        log_p, log_weight, log_mass = (x.astype(float) for x in logs)
        return _Normals(modes, (drawn, log_p, log_p - log_weight), log_mass)


def _wide(size: int) -> float:
    """How wide the wide draws are."""
    return 1 + _WIDER / math.sqrt(size)


def _filled(rows: np.ndarray, number: int) -> np.ndarray:
    """The rows, and the first again until there are as many as a call takes."""
    return np.concatenate([rows, np.tile(rows[:1], (number - len(rows), 1))])


def following(
    start: Beginning, drivers: np.ndarray, curved: np.ndarray
) -> tuple[np.ndarray, Following] | None:
    """The drivers, and how the others follow; None where too many bend together.

    Others that are neighbors of very many are made drivers where the rest are then neighbors of
    few, as a level that a whole series shares. ``curved`` are second derivatives at some points.
    """
    bent = np.abs(curved)
    size = np.sqrt(np.diagonal(bent, axis1=1, axis2=2))
    near = np.any(bent > _ZERO * size[:, :, None] * size[:, None, :], axis=0)
    free = ~np.isin(np.arange(len(near)), drivers)
    shared = free & (near[:, free].sum(axis=1) > max(_MANY, free.sum() // 2))
    places = np.flatnonzero(free & ~shared)
    order, width = banded.order_of(near[np.ix_(places, places)])
    if width is None or shared.sum() > _MOST_SHARED:
        places, shared[:] = np.flatnonzero(free), False
        order, width = banded.order_of(near[np.ix_(places, places)])
    if width is None and len(order) > _MAX_FULL:
        return None
    inside = places[order]
    scales = start.sds[inside].astype(start.dtype)
    ends = np.cumsum([math.prod(shape) for shape in start.positions.flat_shapes])
    moved = set(np.searchsorted(ends, inside, side="right").tolist())
    still = tuple(leaf not in moved for leaf in range(len(ends)))
    placed: Following = jax.device_put(
        Following(start.density, inside, scales, start.positions, still, width)
    )
    return np.sort(np.append(drivers, np.flatnonzero(shared))), placed


@jax.jit
def _normals(how: Following, points: Array, noise: Array, luck: Array) -> tuple[Array, ...]:
    """Modes, draws, log p, log of the mean of p over their density, log masses, evaluations."""
    density, full = how.density, how.width is None
    how = dataclasses.replace(how, density=density.prepared())
    size = int(np.clip(_TOGETHER // len(how.order) ** 3, 1, _CHUNK)) if full else len(points)
    found: tuple[Array, ...] = density.over(functools.partial(_normal, how), together=size)(
        points, noise, luck
    )
    return found


def _log_density_of(how: Following, point: Array) -> Callable[[Array], Scalar]:
    """Log p of the coordinates that follow; the others are those of the point."""
    fixed = how.positions.free(point)

    def log_p(x: Array) -> Scalar:
        pairs = zip(fixed, how.positions.free(point.at[how.order].set(x)), how.still, strict=True)
        parts = [held if still else moving for held, moving, still in pairs]
        value = jnp.asarray(how.density(how.positions.position(parts)))
        return value.astype(point.dtype) + how.positions.volume(parts)

    return log_p


def _normal(how: Following, point: Array, noise: Array, luck: Scalar) -> tuple[Array, ...]:
    """What is found near one point."""
    width, n = how.width, len(how.order)
    log_p = _log_density_of(how, point)
    last = mode_from(point[how.order], log_p, how.scales, width)
    mode, root = normal_at(last, how.scales, width)
    log_volume = jnp.sum(jnp.log(banded.diagonal(root, width)))
    log_normal = -0.5 * n * math.log(2 * math.pi)
    drawn = mode[None] + jax.vmap(lambda e: banded.backward(root, e, width))(noise)
    square = 0.5 * jnp.sum(noise**2, axis=1)
    wide = _wide(n)
    broad = math.log(_SHARE) - n * math.log(wide) - square / wide**2
    log_q = jnp.logaddexp(math.log1p(-_SHARE) - square, broad) + log_normal + log_volume
    log_ps = how.density.over(log_p)(drawn)
    log_w = jnp.where(jnp.isfinite(log_ps), log_ps - log_q, -jnp.inf)
    share = jnp.cumsum(jax.nn.softmax(log_w))
    one = jnp.minimum(jnp.searchsorted(share, luck * share[-1]), len(log_w) - 1)
    log_weight = jax.nn.logsumexp(log_w) - math.log(len(log_w))
    log_mass = log_p(mode) - log_normal - log_volume
    columns = len(banded.directions(n, width))
    evaluations = last.looks + last.curvatures * (1 + columns) + len(noise) + 1
    draws = point.at[how.order].set(drawn[one]), log_ps[one], log_weight
    return mode, *draws, log_mass, evaluations
