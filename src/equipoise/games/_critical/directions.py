"""What small steps do to each direction, and which eigenvalues are of those that they attract."""

from typing import NamedTuple

import numpy as np

from equipoise._types import Array
from equipoise.games._rules.numerics import rounding
from equipoise.games._spectrum.algebra import eigenvalues, eigenvectors, namespace
from equipoise.games._spectrum.spectrum import norm, rounding_level


class Directions(NamedTuple):
    """How many eigenvalues small steps leave at 1, push off the circle, and pull into it."""

    flat: Array
    repelling: Array
    attracted: Array


def directions(matrix: Array, derivative: Array, eta: Array) -> Directions:
    """What small steps do, from M(η) and ∂M/∂η at a small η.

    Moduli tell where rounding lets them, as those of memory do; elsewhere ∂log|λ|/∂η tells. A
    direction is flat up to √ε of ‖∂M/∂η‖, because equilibria are found to √ε.
    """
    xp = namespace(matrix)
    values, vectors = eigenvectors(matrix)
    left = xp.linalg.pinv(xp.where(xp.isfinite(vectors), vectors, 0))
    condition, strength = xp.sqrt((xp.abs(left) ** 2).sum(-1)), norm(derivative)
    noise = rounding_level(matrix) * condition
    drift = 8 * len(values) * rounding(noise.dtype) * strength * condition
    rates = left @ derivative.astype(values.dtype) @ vectors
    sizes, speeds = xp.abs(values), xp.real(xp.diagonal(rates) / values)
    inside, outside = sizes < 1 - noise, sizes > 1 + noise
    slowest = rounding(noise.dtype, 0.5) * strength
    # Eigenvalues that cannot be told from 1 have any vectors of what they span: their rates are
    # those of a matrix, in which all others stand as neutral.
    at_one = xp.abs(values - 1) <= noise + eta * slowest
    others = xp.diag(xp.where(at_one, 0, strength)).astype(rates.dtype) * 1j
    shared = eigenvalues(xp.where(at_one[:, None] & at_one[None], rates, others))
    far = xp.abs(shared) > slowest
    most = xp.where(at_one, drift, 0).max()
    repelling = ~at_one & (outside | (~inside & (speeds > drift)))
    attracted = ~at_one & (inside | (~outside & (speeds < -drift)))
    counts = (
        (~far).sum(),
        repelling.sum() + (far & (shared.real > most)).sum(),
        attracted.sum() + (far & (shared.real < -most)).sum(),
    )
    return Directions(*(count.astype(np.int32) for count in counts))


def moving(values: Array, closeness: Array, num_flat: Array) -> Array:
    """Moduli of eigenvalues (..., n); −1 for the flat ones, which are those closest to 1."""
    xp = namespace(values, closeness, num_flat)
    last = xp.sort(closeness, axis=-1)[..., xp.maximum(num_flat - 1, 0)]
    return xp.where((closeness <= last[..., None]) & (num_flat > 0), -1, xp.abs(values))


def ranked(values: Array, sizes: Array, rank: Array) -> Array:
    """Which eigenvalue (..., n) has this rank in size; of a pair, the one above the axis."""
    xp = namespace(values, sizes, rank)
    place = xp.clip(sizes.shape[-1] - 1 - rank, 0, None) + xp.zeros(sizes.shape[:-1], np.int32)
    size = xp.take_along_axis(xp.sort(sizes, axis=-1), place[..., None], -1)
    near = xp.abs(sizes - size) <= 8 * rounding(sizes.dtype) * xp.abs(size)
    return xp.argmax(xp.where(near, values.imag, -xp.inf), axis=-1)
