"""Sparse grids for expectations under a standard normal."""

import functools
import itertools
import math

import numpy as np

MAX_LEVEL = 4
MAX_POINTS = 20_000


@functools.lru_cache(maxsize=32)
def sparse_grid(size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Points and two columns of weights: of a Smolyak rule, and of the one a level below it.

    The rule of level L integrates polynomials of total degree 2L + 1 exactly; the difference of
    the two tells its error. None where even the smallest useful rule has too many points.
    """
    for level in range(MAX_LEVEL, 1, -1):
        if count(size, level) <= MAX_POINTS:
            break
    else:
        return None
    weights: dict[tuple[tuple[int, int, int], ...], list[float]] = {}
    for column, top in enumerate((level, level - 1)):
        for key, weight in smolyak(size, top):
            weights.setdefault(key, [0.0, 0.0])[column] += weight
    points = np.zeros((len(weights), size))
    for row, key in enumerate(weights):
        for axis, order, node in key:
            points[row, axis] = gauss_hermite(order)[0][node]
    return points, np.asarray(list(weights.values()))


def count(size: int, level: int) -> int:
    """About how many points a rule has: choices of axes and of nodes on them."""
    total: int = sum(
        math.comb(size, axes) * math.comb(level, axes) * 2**axes for axes in range(level + 1)
    )
    return total * (1 if level < 2 else 2)


@functools.lru_cache(maxsize=16)
def gauss_hermite(order: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule with 2·order + 1 nodes for a standard normal; its middle node is 0."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(2 * order + 1)
    nodes[order] = 0.0
    return nodes, weights / weights.sum()


def smolyak(size: int, level: int) -> list[tuple[tuple[tuple[int, int, int], ...], float]]:
    """Combination of product rules; a point is its (axis, order, node) off the middle."""
    terms = []
    for total in range(max(0, level - size + 1), level + 1):
        sign = (-1) ** (level - total) * math.comb(size - 1, level - total)
        for orders in compositions(size, total):
            rules = [
                [
                    ((axis, order, node), w)
                    for node, w in enumerate(gauss_hermite(order)[1].tolist())
                ]
                for axis, order in orders
            ]
            for combination in itertools.product(*rules):
                key = tuple(node for node, _ in combination if node[1] != node[2])
                weight = math.prod((float(w) for _, w in combination), start=float(sign))
                terms.append((key, weight))
    return terms


def compositions(size: int, total: int) -> list[tuple[tuple[int, int], ...]]:
    """Every way to share ``total`` orders out, as the (axis, order) of axes with one or more."""
    found = []
    for number in range(min(size, total) + 1):
        for axes in itertools.combinations(range(size), number):
            for cuts in itertools.combinations(range(1, total), max(number - 1, 0)):
                orders = [b - a for a, b in itertools.pairwise([0, *cuts, total])]
                if number or total == 0:
                    found.append(tuple(zip(axes, orders, strict=False)))
    return found
