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

_NUM = 4
_SUBSPACE = 24
_LEAST_PART = 1e-6  # of an eigenvector: less is rounding, and no direction
_LEAST_ANGLE = 1e-3  # of a part to those that are known


class _Leading(NamedTuple):
    """Eigenvalues of M(η) farthest from a point, and their eigenvectors in rows."""

    values: Array
    vectors: Array
    residuals: Array


@jax.jit
def farthest(family: Family, eta: Array, point: Array) -> _Leading:
    """The eigenvalues of M(η) that are farthest from a point on the real axis."""
    tangent, at, _ = linearization(
        family.dynamics, family.players, each_player(eta, family.factors)
    )
    found = arnoldi(
        lambda v: tangent(v) - point * v,
        at,
        jax.random.key(0),
        num=min(_NUM, at.size),
        subspace=_SUBSPACE,
        tolerance=1e-5,
        max_restarts=16,
    )
    return _Leading(found.values + point.astype(found.values.dtype), found.vectors, found.residuals)


@jax.jit
def on_directions(family: Family, rows: Array, etas: Array) -> tuple[Array, Array, Array]:
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


class _Slot(NamedTuple):
    """A player or a memory in the flat state; copies of one player have one owner."""

    start: int
    end: int
    owner: int


def slots(family: Family) -> tuple[_Slot, ...]:
    """Where each player and each memory lies in the flat state."""
    steps = each_player(jnp.ones((), jax.tree.leaves(family.players)[0].dtype), family.factors)
    state: State = jax.eval_shape(settled, family.dynamics, family.players, steps)
    players = [_shapes(p) for p in state.players]
    real = [s for s in jax.tree.leaves(state.memory) if jnp.issubdtype(s.dtype, jnp.floating)]
    memory, found, turn = _shapes(real), list(players), 0
    owners = list(range(len(players)))
    while memory:
        # Copies come in the order of the players.
        order = [(turn + i) % len(players) for i in range(len(players))]
        owner = next((i for i in order if memory[: len(players[i])] == players[i]), None)
        shapes = memory[:1] if owner is None else players[owner]
        turn = turn if owner is None else owner + 1
        owners.append(len(found) if owner is None else owner)
        found.append(shapes)
        memory = memory[len(shapes) :]
    sizes = [sum(map(math.prod, shapes)) for shapes in found]
    ends = np.cumsum(sizes).tolist()
    return tuple(map(_Slot, [0, *ends[:-1]], ends, owners))


def with_parts(
    known: dict[int, list[np.ndarray]], vectors: np.ndarray, where: tuple[_Slot, ...]
) -> dict[int, list[np.ndarray]]:
    """Orthonormal directions of each owner, with those of the parts of each vector."""
    directions = {slot.owner: list(known.get(slot.owner, [])) for slot in where}
    for start, end, owner in where:
        rows = directions[owner]
        for part in (p for v in vectors for p in (v.real[start:end], v.imag[start:end])):
            size = np.linalg.norm(part)
            if size > _LEAST_PART:
                row = part / size
                for _ in range(2):
                    for other in rows:
                        row = row - (other @ row) * other
                rest = np.linalg.norm(row)
                if rest > _LEAST_ANGLE:
                    rows.append(row / rest)
    return directions


def full_rows(
    directions: dict[int, list[np.ndarray]], where: tuple[_Slot, ...], dtype: np.dtype
) -> np.ndarray:
    """The directions in each slot of the flat state, the same in all copies of a player."""
    count = sum(len(directions[slot.owner]) for slot in where)
    found = np.zeros((count, where[-1].end), dtype)
    rows = iter(found)
    for start, end, owner in where:
        for direction in directions[owner]:
            next(rows)[start:end] = direction
    return found


def _shapes(tree: PyTree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]
