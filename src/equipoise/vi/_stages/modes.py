"""The normals of some coordinates given the others: modes by Newton's method, many at a time."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.traced import Traced
from equipoise._types import Array, Scalar, record, static_field
from equipoise.vi._families.layout import Layout
from equipoise.vi._stages import banded
from equipoise.vi._stages.beginning import Beginning
from equipoise.vi._weights.growth import Draws

_NUM_STEPS, _TOLERANCE = 20, 0.02  # nats that the last step gains: the rest is of third order
_DAMPED, _FIRST = 1e-4, 1e-3  # relative, below which a step is Newton's; and where damping begins
_CHUNK, _DRAWS = 512, 16  # points of a call, and draws of each normal
_NUMBERS, _MAX_FULL = 2**15, 512  # of full matrices that are found together; rows of one
_SHARE = 0.25  # of draws that are wider, by 1/√coordinates
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

    def normals(self, points: np.ndarray, rng: np.random.Generator) -> _Normals:
        """Draws of the normals near each point, around modes, of the curvature there.

        Several draws share a normal, which costs far more than they do, and one of them is chosen.
        """
        dtype, parts = self.scales.dtype, []
        for first in range(0, len(points), _CHUNK):
            here = points[first : first + _CHUNK]
            shape = _CHUNK, _DRAWS, len(self.order)
            noise, luck = rng.standard_normal(shape), rng.random(shape[:2])
            # Some are wider, so that tails are covered.
            noise *= np.where(luck < _SHARE, _wide(shape[2]), 1.0)[..., None]
            found = _normals(
                self, *(x.astype(dtype) for x in (_filled(here), noise, rng.random(_CHUNK)))
            )
            parts.append([np.asarray(x)[: len(here)] for x in found])
        modes, drawn, *logs = map(np.concatenate, zip(*parts, strict=True))
        log_p, log_weight, log_mass = (x.astype(float) for x in logs)
        return _Normals(modes, (drawn, log_p, log_p - log_weight), log_mass)


def _wide(size: int) -> float:
    """How wide the wide draws are."""
    return 1 + 1 / math.sqrt(size)


def _filled(rows: np.ndarray) -> np.ndarray:
    """The rows, and the first again until there are as many as a call takes."""
    return np.concatenate([rows, np.tile(rows[:1], (_CHUNK - len(rows), 1))])


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


class _State(NamedTuple):
    """Where a path is, what is known there, and the step that it tries next."""

    point: Array
    value: Scalar
    slope: Array
    precision: Array
    damping: Scalar
    step: Array
    gain: Scalar
    steps: Scalar


@jax.jit
def _normals(how: Following, points: Array, noise: Array, luck: Array) -> tuple[Array, ...]:
    """Modes, draws, log p, log of the mean of p over their density, and log masses."""
    how = dataclasses.replace(how, density=how.density.prepared())
    # Few diagonals are long loops of small steps, the cheaper the more points share them.
    full = how.width is None
    size = int(np.clip(_NUMBERS // len(how.order) ** 2, 1, _CHUNK)) if full else _CHUNK
    found: tuple[Array, ...] = jax.lax.map(
        lambda x: _normal(how, *x), (points, noise, luck), batch_size=size
    )
    return found


def _normal(how: Following, point: Array, noise: Array, luck: Scalar) -> tuple[Array, ...]:
    """What is found near one point.

    A step that lowers the density is undone, and the next one is damped.
    """
    order, scales, width = how.order, how.scales, how.width
    n, dtype = len(order), point.dtype
    along = jnp.asarray(banded.directions(n, width), dtype)

    def log_p(x: Array) -> Scalar:
        pairs = zip(
            *map(how.positions.free, (point, point.at[order].set(x))), how.still, strict=True
        )
        parts = [fixed if still else moving for fixed, moving, still in pairs]
        value = jnp.asarray(how.density(how.positions.position(parts)))
        return value.astype(dtype) + how.positions.volume(parts)

    def damped(precision: Array, damping: Scalar) -> Array:
        size = jnp.abs(banded.diagonal(precision, width)) + scales**-2
        return banded.factor(banded.with_diagonal(precision, damping * size, width), width)

    def look(now: _State) -> _State:
        x = now.point + now.step
        (value, slope), push = jax.linearize(jax.value_and_grad(log_p), x)
        precision = -banded.stored(jax.vmap(push)(along)[1], width)
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(precision))
        better = sound & (value >= now.value)
        point, value, slope, precision = (
            jnp.where(better, new, old)
            for new, old in zip((x, value, slope, precision), now[:4], strict=True)
        )
        eased = jnp.where(now.damping > _DAMPED, now.damping / 8, 0)
        damping = jnp.where(better, eased, jnp.maximum(8 * now.damping, _FIRST))
        root = damped(precision, damping)
        half = banded.forward(root, slope, width)
        step = banded.backward(root, half, width)
        gain = jnp.sum(half**2) * (1 + damping)
        return _State(point, value, slope, precision, damping, step, gain, now.steps + 1)

    def busy(now: _State) -> Array:
        return (now.steps < _NUM_STEPS) & ~(now.gain < _TOLERANCE)

    zero, empty = jnp.zeros((), dtype), jnp.zeros(n, dtype)
    first = _State(
        point[order],
        zero - jnp.inf,
        empty,
        banded.stored(jnp.zeros_like(along), width),
        zero,
        empty,
        zero + jnp.inf,
        zero,
    )
    last = jax.lax.while_loop(busy, look, first)
    mode = last.point + jnp.where(last.gain < _TOLERANCE, last.step, 0)
    # Without damping where that is possible, with it where not, and in the worst case by axes.
    root = damped(last.precision, zero)
    axes = banded.with_diagonal(jnp.zeros_like(last.precision), scales**-2, width)
    for other in (damped(last.precision, last.damping), axes**0.5):
        root = jnp.where(jnp.all(jnp.isfinite(root)), root, other)
    log_volume = jnp.sum(jnp.log(banded.diagonal(root, width)))
    log_normal = -0.5 * n * math.log(2 * math.pi)
    drawn = mode[None] + jax.vmap(lambda e: banded.backward(root, e, width))(noise)
    square = 0.5 * jnp.sum(noise**2, axis=1)
    wide = _wide(n)
    broad = math.log(_SHARE) - n * math.log(wide) - square / wide**2
    log_q = jnp.logaddexp(math.log1p(-_SHARE) - square, broad) + log_normal + log_volume
    log_ps = jax.vmap(log_p)(drawn)
    log_w = jnp.where(jnp.isfinite(log_ps), log_ps - log_q, -jnp.inf)
    share = jnp.cumsum(jax.nn.softmax(log_w))
    one = jnp.minimum(jnp.searchsorted(share, luck * share[-1]), len(log_w) - 1)
    log_weight = jax.nn.logsumexp(log_w) - math.log(len(log_w))
    log_mass = log_p(mode) - log_normal - log_volume
    return mode, point.at[order].set(drawn[one]), log_ps[one], log_weight, log_mass
