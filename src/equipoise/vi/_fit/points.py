"""Points for expectations under a standard normal: balanced ones, and sparse grids."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, PRNGKeyArray

_MAX_LATTICE_SIZE = 20  # beyond it a Kronecker sequence fills no better than independent points
_START_POINTS = 64
_MAX_LEVEL = 4
_MAX_POINTS = 20_000


@functools.partial(jax.jit, static_argnames=("size", "dtype", "num_samples"))
def first_points(
    key: PRNGKeyArray, size: int, dtype: np.dtype, num_samples: int
) -> tuple[Array, Array]:
    """Balanced points for the start and for the ELBO."""
    key_start, key_elbo = jax.random.split(key)
    return (
        _balanced(key_start, _START_POINTS, size, dtype),
        _balanced(key_elbo, max(num_samples, 16 * size), size, dtype),
    )


def _balanced(key: PRNGKeyArray, num_samples: int, size: int, dtype: np.dtype) -> Array:
    """Antithetic points with mean 0 and covariance I exactly, so quadratics are integrated exactly.

    A randomly shifted Kronecker sequence in low dimension, independent points above; at least
    2·``size`` are made.
    """
    half = max(-(-num_samples // 2), size + 1)
    if size <= _MAX_LATTICE_SIZE:
        z = _kronecker(key, half, size).astype(dtype)
    else:
        z = jax.random.normal(key, (half, size), dtype)
    factor = jnp.linalg.cholesky(z.T @ z / half)
    z = jax.scipy.linalg.solve_triangular(factor, z.T, lower=True).T
    return jnp.concatenate([z, -z])


def _kronecker(key: PRNGKeyArray, num_samples: int, size: int) -> Array:
    """Normal quantiles of k·α + shift mod 1, with α the generalized golden ratio's powers.

    Unsigned integers wrap around, which is the fractional part without rounding.
    """
    phi = 2.0
    for _ in range(40):
        phi = (1 + phi) ** (1 / (size + 1))
    alpha = np.asarray([int(phi ** -(j + 1) * 2**32) | 1 for j in range(size)], np.uint32)
    shift = jax.random.bits(key, (size,), jnp.uint32)
    index = jnp.arange(num_samples, dtype=jnp.uint32)[:, None]
    bits = index * alpha[None] + shift[None]
    uniform = (bits >> 9).astype(jnp.float32) * 2.0**-23 + 2.0**-24
    return jax.scipy.special.ndtri(uniform)


@functools.lru_cache(maxsize=32)
def sparse_grid(size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Points and two columns of weights: of a Smolyak rule, and of the one a level below it.

    The rule of level L integrates polynomials of total degree 2L + 1 exactly; the difference of
    the two tells its error. None where even the smallest useful rule has too many points.
    """
    for level in range(_MAX_LEVEL, 1, -1):
        if _count(size, level) <= _MAX_POINTS:
            break
    else:
        return None
    weights: dict[tuple[tuple[int, int, int], ...], list[float]] = {}
    for column, top in enumerate((level, level - 1)):
        for key, weight in _smolyak(size, top):
            weights.setdefault(key, [0.0, 0.0])[column] += weight
    points = np.zeros((len(weights), size))
    for row, key in enumerate(weights):
        for axis, order, node in key:
            points[row, axis] = _gauss_hermite(order)[0][node]
    return points, np.asarray(list(weights.values()))


def _count(size: int, level: int) -> int:
    """About how many points a rule has: choices of axes and of nodes on them."""
    total = sum(
        math.comb(size, axes) * math.comb(level, axes) * 2**axes for axes in range(level + 1)
    )
    return total * (1 if level < 2 else 2)


@functools.lru_cache(maxsize=16)
def _gauss_hermite(order: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule with 2·order + 1 nodes for a standard normal; its middle node is 0."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(2 * order + 1)
    nodes[order] = 0.0
    return nodes, weights / weights.sum()


def _smolyak(size: int, level: int) -> list[tuple[tuple[tuple[int, int, int], ...], float]]:
    """Combination of product rules; a point is its (axis, order, node) off the middle."""
    terms = []
    for total in range(max(0, level - size + 1), level + 1):
        sign = (-1) ** (level - total) * math.comb(size - 1, level - total)
        for orders in _compositions(size, total):
            rules = [
                [
                    ((axis, order, node), w)
                    for node, w in enumerate(_gauss_hermite(order)[1].tolist())
                ]
                for axis, order in orders
            ]
            for combination in itertools.product(*rules):
                key = tuple(node for node, _ in combination if node[1] != node[2])
                weight = math.prod((float(w) for _, w in combination), start=float(sign))
                terms.append((key, weight))
    return terms


def _compositions(size: int, total: int) -> list[tuple[tuple[int, int], ...]]:
    """Every way to share ``total`` orders out, as the (axis, order) of axes with one or more."""
    found = []
    for number in range(min(size, total) + 1):
        for axes in itertools.combinations(range(size), number):
            for cuts in itertools.combinations(range(1, total), max(number - 1, 0)):
                orders = [b - a for a, b in itertools.pairwise([0, *cuts, total])]
                if number or total == 0:
                    found.append(tuple(zip(axes, orders, strict=False)))
    return found
