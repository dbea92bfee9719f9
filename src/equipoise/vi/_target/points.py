"""Where a fit's points come from: its randomness, balanced normal points, and sparse grids."""

import functools
import itertools
import math
import statistics
from typing import NamedTuple

import jax
import numpy as np

from equipoise._types import PRNGKeyArray, PyTree
from equipoise.vi._weights.products import gram, rows_times

_MAX_LATTICE_SIZE = 20  # beyond it a Kronecker sequence fills no better than independent points
_MAX_LEVEL = 4
_MAX_POINTS = 20_000


class Chance(NamedTuple):
    """All randomness of a fit, each use its own: generators on the host, keys for programs."""

    points: np.random.Generator
    starts: np.random.Generator
    draws: np.random.Generator
    init_key: PRNGKeyArray
    step_key: PRNGKeyArray

    def draw_key(self) -> PRNGKeyArray:
        """A key of its own at each call, made without a program."""
        implementation = jax.random.key_impl(self.step_key)
        size = jax.random.key_data(self.step_key).size
        words: PyTree = self.draws.integers(2**32, size=size, dtype=np.uint32)
        return jax.random.wrap_key_data(words, impl=implementation)


def chance(key: PRNGKeyArray) -> Chance:
    """The randomness that one key stands for."""
    data = np.asarray(jax.random.key_data(key))
    seed = np.random.SeedSequence(data.tolist())
    words: PyTree = seed.generate_state(2 * data.size).reshape(2, data.size)
    keys = [jax.random.wrap_key_data(w, impl=jax.random.key_impl(key)) for w in words]
    points, starts, draws = map(np.random.default_rng, seed.spawn(3))
    return Chance(points, starts, draws, *keys)


def balanced(rng: np.random.Generator, num_samples: int, size: int) -> np.ndarray:
    """Antithetic points with mean 0 and covariance I exactly, so quadratics are integrated exactly.

    A randomly shifted Kronecker sequence in low dimension, independent points above; at least
    2·``size`` are made.
    """
    half = max(-(-num_samples // 2), size + 1)
    lattice = size <= _MAX_LATTICE_SIZE
    z = _kronecker(rng, half, size) if lattice else rng.standard_normal((half, size))
    whiten = np.linalg.inv(np.linalg.cholesky(gram(z, z) / half))
    z = rows_times(z, whiten.T)
    return np.concatenate([z, -z])


def _kronecker(rng: np.random.Generator, num_samples: int, size: int) -> np.ndarray:
    """Normal quantiles of k·α + shift mod 1, with α the generalized golden ratio's powers."""
    phi = 2.0
    for _ in range(40):
        phi = (1 + phi) ** (1 / (size + 1))
    alpha = phi ** -np.arange(1.0, size + 1)
    turns = np.arange(num_samples)[:, None] * alpha + rng.random(size)
    # Half of the smallest distance to an end of the interval, whose quantile is infinite.
    uniform = np.clip(turns % 1, 2.0**-54, 1 - 2.0**-53)
    quantile = statistics.NormalDist().inv_cdf
    return np.reshape([quantile(u) for u in uniform.ravel().tolist()], uniform.shape)


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
