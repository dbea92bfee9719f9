"""M(η) on a few directions: eigenvectors that Arnoldi finds, taken apart by player and memory.

The eigenvectors of an update change with the step size less than their parts do: along an
eigenvector of the game, players and memories keep their directions and only their weights change.
So each part of an eigenvector becomes a direction of its own, and M(η) on all of them is exact at
every step size for rules that treat coordinates alike, and where it was taken for any other.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._types import Array, PyTree
from equipoise.games._rules.dynamics import each_player
from equipoise.games._rules.rule import State
from equipoise.games._spectrum.arnoldi import arnoldi
from equipoise.games._spectrum.spectrum import Family, linearization, step_residual
from equipoise.games._spectrum.update_map import settled

_NUM = 6
_SUBSPACE = 24


class Leading(NamedTuple):
    """Eigenvalues of M(η) farthest from a point, and their eigenvectors in rows."""

    values: Array
    vectors: Array
    residuals: Array


@jax.jit
def farthest(family: Family, eta: Array, point: Array) -> Leading:
    """The eigenvalues of M(η) that are farthest from a point on the real axis."""
    tangent, at, _ = linearization(family.dynamics, family.players, each_player(eta, family.factors))
    found = arnoldi(
        lambda v: tangent(v) - point * v,
        at,
        jax.random.key(0),
        num=min(_NUM, at.size),
        subspace=_SUBSPACE,
        tolerance=1e-5,
        max_restarts=30,
    )
    return Leading(found.values + point, found.vectors, found.residuals)


@jax.jit
def on_directions(
    family: Family, rows: Array, etas: Array
) -> tuple[Array, Array, Array]:
    """V M(η) Vᵀ, its derivative by η and the residual, for rows V and each step size."""

    def one(eta: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        def here(eta: Array) -> tuple[Array, Array]:
            steps = each_player(eta, family.factors)
            tangent, at, image = linearization(family.dynamics, family.players, steps)
            residual = step_residual(family.dynamics, family.players, at, image, steps)
            images = jax.lax.map(tangent, rows, batch_size=8)
            return jnp.einsum("ik,jk->ij", rows, images, precision="highest"), residual

        return jax.jvp(here, (eta,), (jnp.ones_like(eta),))

    (matrices, residuals), (along, _) = jax.lax.map(one, etas)
    return matrices, along, residuals


def slots(family: Family) -> tuple[int, ...]:
    """Where each player and each memory ends in the flat state."""
    steps = each_player(jnp.ones((), jax.tree.leaves(family.players)[0].dtype), family.factors)
    state: State = jax.eval_shape(settled, family.dynamics, family.players, steps)
    ends, end = [], 0
    for player in state.players:
        end += _size(player)
        ends.append(end)
    copies = sorted({tuple(_shapes(p)) for p in state.players}, key=len, reverse=True)
    memory = [s for s in jax.tree.leaves(state.memory) if jnp.issubdtype(s.dtype, jnp.floating)]
    while memory:
        shapes = tuple(leaf.shape for leaf in memory)
        like = next((c for c in copies if shapes[: len(c)] == c), shapes[:1])
        end += sum(math.prod(shape) for shape in like)
        ends.append(end)
        memory = memory[len(like) :]
    return tuple(ends)


def directions_of(vectors: np.ndarray, ends: tuple[int, ...], known: np.ndarray) -> np.ndarray:
    """Orthonormal rows that hold each part of each vector, after those that are known."""
    rows = list(known)
    starts = (0, *ends[:-1])
    for vector in vectors:
        for start, end in zip(starts, ends, strict=True):
            for part in (vector.real, vector.imag):
                row = np.zeros(part.shape, part.dtype)
                row[start:end] = part[start:end]
                size = np.linalg.norm(row)
                if size > 1e-6:
                    row /= size
                    for _ in range(2):
                        for other in rows:
                            row -= (other @ row) * other
                    rest = np.linalg.norm(row)
                    if rest > 1e-4:
                        rows.append(row / rest)
    return np.stack(rows)


def _shapes(tree: PyTree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
