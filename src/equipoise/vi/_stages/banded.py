"""Matrices whose entries lie near the diagonal: their order, factors, and systems of equations.

Latents of a time series, or of groups, bend the density with their neighbors alone. In an order
that keeps neighbors together such a matrix is a few diagonals, and its factor too: work and memory
grow with its size and not with powers of it. A matrix is stored by rows: column o of row i is the
entry (i, i − o). One that is full, or nearly, is stored as it is.
"""

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array

_MAX_WIDTH = 8  # diagonals below the main one; beyond them a matrix counts as full


def order_of(near: np.ndarray) -> tuple[np.ndarray, int | None]:
    """An order in which entries lie near the diagonal, and how far from it; None where too far.

    Breadth first from a vertex far out, as Cuthill and McKee do.
    """
    n = len(near)
    near = near | near.T
    degree, order = near.sum(axis=1), []
    left = np.ones(n, bool)
    while left.any():
        first = _farthest(near, left, int(np.flatnonzero(left)[np.argmin(degree[left])]))
        queue, left[first] = [first], False
        for one in queue:
            found = np.flatnonzero(near[one] & left)
            queue += found[np.argsort(degree[found], kind="stable")].tolist()
            left[found] = False
        order += queue
    place = np.argsort(order)
    rows, columns = np.nonzero(near)
    width = int(np.max(np.abs(place[rows] - place[columns]), initial=0))
    return (np.array(order), width) if width <= min(_MAX_WIDTH, n // 4) else (np.arange(n), None)


def _farthest(near: np.ndarray, left: np.ndarray, first: int) -> int:
    """The vertex that is reached last from the first."""
    seen, front = np.zeros(len(near), bool), np.array([first])
    while len(front):
        seen[front], last = True, front
        front = np.flatnonzero(near[front].any(axis=0) & left & ~seen)
    return int(last[0])


def directions(n: int, width: int | None) -> np.ndarray:
    """Directions, one a row, whose products with a matrix tell all of its entries."""
    if width is None:
        return np.eye(n)
    colors = 2 * width + 1
    return (np.arange(n) % colors == np.arange(min(colors, n))[:, None]).astype(float)


def stored(products: Array, width: int | None) -> Array:
    """The matrix of those products, one a row."""
    if width is None:
        return products
    n = products.shape[1]
    row, offset = np.arange(n)[:, None], np.arange(width + 1)
    inside = row >= offset
    return jnp.where(inside, products[(row - offset) % len(products), row], 0)


def diagonal(matrix: Array, width: int | None) -> Array:
    """Its diagonal."""
    return jnp.diagonal(matrix) if width is None else matrix[:, 0]


def with_diagonal(matrix: Array, added: Array, width: int | None) -> Array:
    """The matrix with that much more on its diagonal."""
    return matrix + jnp.diag(added) if width is None else matrix.at[:, 0].add(added)


def factor(matrix: Array, width: int | None) -> Array:
    """The Cholesky factor; something of it is nan where the matrix is not positive definite."""
    if width is None:
        return jnp.linalg.cholesky(matrix)

    def row(before: Array, a: Array) -> tuple[Array, Array]:
        """``before[o - 1]`` is row i − o of the factor."""
        found: list[Array] = [jnp.zeros((), a.dtype)] * (width + 1)
        for o in range(width, 0, -1):
            shared = sum(found[o + t] * before[o - 1, t] for t in range(1, width - o + 1))
            found[o] = (a[o] - shared) / before[o - 1, 0]
        found[0] = jnp.sqrt(a[0] - sum(x**2 for x in found[1:]))
        here = jnp.stack(found)
        return jnp.concatenate([here[None], before])[:width], here

    # Above the first row stand those of the identity.
    above = jnp.zeros((width, width + 1), matrix.dtype).at[:, 0].set(1)
    return jax.lax.scan(row, above, matrix)[1]


def forward(root: Array, right: Array, width: int | None) -> Array:
    """The solution of L x = b."""
    if width is None:
        return jax.scipy.linalg.solve_triangular(root, right, lower=True)

    def row(before: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        below, b = now
        x = (b - below[1:] @ before) / below[0]
        return jnp.concatenate([x[None], before])[:width], x

    return jax.lax.scan(row, jnp.zeros(width, right.dtype), (root, right))[1]


def backward(root: Array, right: Array, width: int | None) -> Array:
    """The solution of Lᵀ x = b."""
    if width is None:
        return jax.scipy.linalg.solve_triangular(root, right, lower=True, trans=1)

    def row(known: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        """``known[o]`` is what rows below take from the right side of row i − o."""
        below, b = now
        x = (b - known[0]) / below[0]
        later = jnp.append(known[1:], jnp.zeros((), known.dtype))
        return later + jnp.append(below[1:], jnp.zeros((), known.dtype)) * x, x

    first = jnp.zeros(width + 1, right.dtype)
    return jax.lax.scan(row, first, (root, right), reverse=True)[1]
