"""Newton's method for one of many points, where second derivatives are dearer than all else."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array, Scalar
from equipoise.vi._bounds.density import second_order, value_and_slope
from equipoise.vi._stages import banded

_MOST_CURVATURES, _MOST_LOOKS = 20, 8  # of a path, and steps for each
_TOLERANCE = 0.02  # nats that the last step gains: the rest is of third order
_ROUGH = 0.5  # where second derivatives say a step gains less they hold at the mode
_CONTRACTION = 0.25  # of what a step gains, from one to the next, as long as they are kept
# Relative: below it a step is Newton's, where damping begins, and where no step is left.
_DAMPED, _FIRST, _STUCK = 1e-4, 1e-3, 1e4


class _Path(NamedTuple):
    """Where a path is, what is known there, and how it goes on.

    ``root`` is the factor of damped second derivatives ``precision``, which were taken where a step
    promised to gain ``rough``; now one promises ``gain``.
    """

    point: Array
    value: Scalar
    slope: Array
    precision: Array
    root: Array
    damping: Scalar
    gain: Scalar
    rough: Scalar
    stale: Array
    looks: Array
    curvatures: Array


def mode_from(
    first: Array, log_p: Callable[[Array], Scalar], scales: Array, width: int | None
) -> _Path:
    """Where Newton's method ends that begins at a point.

    Second derivatives, dearer than all else, are kept as long as steps gain ever less with them; a
    step that lowers the density is undone, and the next one is damped.
    """
    dtype = first.dtype
    along = jnp.asarray(banded.directions(len(first), width), dtype)
    look = value_and_slope(log_p, scales)

    def damped(precision: Array, damping: Scalar) -> Array:
        size = jnp.abs(banded.diagonal(precision, width)) + scales**-2
        return banded.factor(banded.with_diagonal(precision, damping * size, width), width)

    def promised(root: Array, slope: Array, damping: Scalar) -> Scalar:
        return jnp.sum(banded.forward(root, slope, width) ** 2) * (1 + damping)

    def step(now: _Path) -> _Path:
        there = now.point + _step(now, width)
        value, slope = look(there)
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
        better = sound & (value >= now.value)
        eased = jnp.where(now.damping > _DAMPED, now.damping / 8, 0)
        damping = jnp.where(better, eased, jnp.maximum(8 * now.damping, _FIRST))
        root = jax.lax.cond(
            damping == now.damping, lambda: now.root, lambda: damped(now.precision, damping)
        )
        pairs = zip((there, value, slope), now[:3], strict=True)
        point, value, slope = (jnp.where(better, new, old) for new, old in pairs)
        gain = promised(root, slope, damping)
        stale = better & ((now.damping > 0) | ~(gain < _CONTRACTION * now.gain))
        looks = now.looks + 1
        known = point, value, slope, now.precision, root
        return _Path(*known, damping, gain, now.rough, stale, looks, now.curvatures)

    def going(now: _Path) -> Array:
        end = _MOST_LOOKS * now.curvatures
        return ~now.stale & ~(now.gain < _TOLERANCE) & (now.looks < end)

    def bend(now: _Path) -> _Path:
        value, slope, columns = second_order(look, now.point, along)
        precision = -banded.stored(columns, width)
        root = damped(precision, now.damping)
        gain = promised(root, slope, now.damping)
        fresh = _Path(
            now.point,
            value,
            slope,
            precision,
            root,
            now.damping,
            gain,
            gain,
            jnp.zeros((), bool),
            now.looks,
            now.curvatures + 1,
        )
        return jax.lax.while_loop(going, step, fresh)

    def busy(now: _Path) -> Array:
        arrived = (now.gain < _TOLERANCE) & (now.rough < _ROUGH)
        return ~arrived & (now.damping < _STUCK) & (now.curvatures < _MOST_CURVATURES)

    zero, empty = jnp.zeros((), dtype), banded.stored(jnp.zeros_like(along), width)
    none = jnp.zeros((), jnp.int32)
    start = _Path(
        first, zero, first, empty, empty, zero, zero + jnp.inf, zero, none == 0, none, none
    )
    return jax.lax.while_loop(busy, bend, start)


def _step(path: _Path, width: int | None) -> Array:
    """The one that a path takes next."""
    return banded.backward(path.root, banded.forward(path.root, path.slope, width), width)


def normal_at(last: _Path, scales: Array, width: int | None) -> tuple[Array, Array]:
    """The mode that a path leads to, and the factor of its second derivatives.

    With no damping where that is possible, with it where not, and in the worst case by axes.
    """
    mode = last.point + jnp.where(last.gain < _TOLERANCE, _step(last, width), 0)
    root = jax.lax.cond(
        last.damping > 0, lambda: banded.factor(last.precision, width), lambda: last.root
    )
    axes = banded.with_diagonal(jnp.zeros_like(last.precision), scales**-2, width)
    for other in (last.root, axes**0.5):
        root = jnp.where(jnp.all(jnp.isfinite(root)), root, other)
    return mode, root
