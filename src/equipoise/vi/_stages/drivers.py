"""The coordinates that bend a density: given them, the others are near a normal.

A density is normal in the coordinates outside of a set S, given those inside, where no third
derivative has all three of its directions outside. So S must meet every triple of coordinates
whose third derivative is not small, and is found as such sets are: the coordinate that is in most
of what is left, again and again.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._jax.traced import Traced
from equipoise._types import Array
from equipoise.vi._bounds.density import flat_log_density, second_order, value_and_slope
from equipoise.vi._families.layout import Layout
from equipoise.vi._weights.effort import evaluated

_NEGLIGIBLE = 0.1  # of the largest: third derivatives that leave a normal where it is


def find_drivers(
    density: Traced,
    positions: Layout,
    points: np.ndarray,
    curved: np.ndarray,
    sds: np.ndarray,
    rng: np.random.Generator,
    *,
    most: int,
) -> tuple[list[int], list[float]]:
    """Coordinates that bend the density at the points, and how much, up to ``most``.

    Each is the strongest of those that are left, of which one more has its strength told where it
    is negligible. ``curved`` are the second derivatives there.
    """
    free = np.ones(points.shape[1], bool)
    signs = rng.choice([-1.0, 1.0], (2, *points.shape)).astype(points.dtype)
    # Conditional sds at the point, so that a funnel bends as much in its neck as at its mouth.
    scales = (np.abs(np.diagonal(curved, axis1=1, axis2=2)) + sds**-2) ** -0.5
    scales = scales.astype(points.dtype)
    chosen: list[int] = []
    strengths: list[float] = []
    while len(chosen) < min(most, len(free) - 1):
        evaluated(4 * len(points))
        bends = np.asarray(_bends(density, points, scales, *(signs * free), positions)) * free
        strongest = int(np.argmax(bends))
        strengths.append(float(bends[strongest]))
        if not strengths[-1] > _NEGLIGIBLE * max(strengths):
            break
        free[strongest] = False
        chosen.append(strongest)
    return chosen, strengths


@functools.partial(jax.jit, static_argnames="positions")
def curvatures(density: Traced, points: Array, sds: Array, positions: Layout) -> Array:
    """Second derivatives at the points, one after the other."""
    look = value_and_slope(flat_log_density(density.prepared(), positions), sds)
    eye = jnp.eye(points.shape[1], dtype=points.dtype)

    return jax.lax.map(lambda z: second_order(look, z, eye)[2], points)


@functools.partial(jax.jit, static_argnames="positions")
def _bends(
    density: Traced, points: Array, scales: Array, u: Array, v: Array, positions: Layout
) -> Array:
    """Mean sizes of third derivatives along each coordinate and two random directions.

    Their mean square over signs is the sum of squares over all pairs of coordinates.
    """
    over = density.over
    log_p = flat_log_density(density.prepared(), positions)

    def bend(z: Array, scale: Array, u: Array, v: Array) -> Array:
        look = value_and_slope(log_p, scale)

        def turned(z: Array) -> Array:
            return jax.jvp(look, (z,), (scale * u,))[1][1]

        return jnp.abs(scale * jax.jvp(turned, (z,), (scale * v,))[1])

    found = over(bend)(points, scales, u, v)
    return jnp.mean(jnp.where(jnp.isfinite(found), found, 0), axis=0)
