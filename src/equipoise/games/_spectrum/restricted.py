"""M(η) on a few directions: eigenvectors that Arnoldi finds, taken apart by player and memory.

The eigenvectors of an update change with the step size less than their parts do: along an
eigenvector of the game, players and memories keep their directions and only their weights change.
So each part of an eigenvector becomes a direction of its own, and M(η) on all of them is exact at
every step size for rules that treat coordinates alike, and where it was taken for any other.
Where one player plays such a rule, the directions are those of its curvature.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from equipoise._types import Array, PyTree
from equipoise.games._rules.dynamics import each_player
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import State
from equipoise.games._spectrum.arnoldi import arnoldi
from equipoise.games._spectrum.lanczos import largest_eigenvalue
from equipoise.games._spectrum.spectrum import Family, linearization, step_residual

_NUM = 4
_SUBSPACE = 24
_LEAST_PART = 1e-6  # of an eigenvector: less is rounding, and no direction
_LEAST_ANGLE = 1e-3  # of a part to those that are known
_MOST_PRODUCTS = 600


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
def most_curved(family: Family) -> Array:
    """The directions of the largest and the smallest curvature of the one player."""
    flat, _ = ravel_pytree(family.players[0])
    product = _hessian(family)

    def extreme(sign: float) -> Array:
        return largest_eigenvalue(
            lambda v: sign * product(v),
            jax.random.normal(jax.random.key(0), flat.shape, flat.dtype),
            subspace=_SUBSPACE,
            # What is flat must be so to rounding: a rate that can be told from 0 attracts.
            tolerance=1e-6 if sign > 0 else 0.0,
            max_products=_MOST_PRODUCTS,
        ).vector

    return jnp.stack([extreme(1.0), extreme(-1.0)])


@jax.jit
def is_of_curvature(family: Family) -> Array:
    """Whether an update of the one player and its copies is a polynomial in the Hessian H.

    A random v is moved into the span of v, Hv and H²v, at the step size of the curvature along v.
    """
    flat, _ = ravel_pytree(family.players[0])
    product = _hessian(family)
    v = _unit(jax.random.normal(jax.random.key(1), flat.shape, flat.dtype))
    pushed = product(v)
    natural = 1 / jnp.linalg.norm(pushed)
    span, _ = jnp.linalg.qr(jnp.stack([v, _unit(pushed), _unit(product(_unit(pushed)))], axis=1))
    tangent, at, _ = linearization(
        family.dynamics, family.players, each_player(natural, family.factors)
    )
    into = jnp.eye(at.size // flat.size, dtype=flat.dtype)
    images = jax.lax.map(lambda slot: tangent(jnp.kron(slot, v)), into).reshape(-1, flat.size)
    rest = images - jnp.matmul(images @ span, span.T, precision="highest")
    few = rounding(flat.dtype, 0.6) * jnp.max(jnp.linalg.norm(images, axis=-1))
    return jnp.all(jnp.linalg.norm(rest, axis=-1) <= few)


def _hessian(family: Family) -> Callable[[Array], Array]:
    """Products with the Hessian of the one player's payoff."""
    flat, unravel = ravel_pytree(family.players[0])
    slope = jax.grad(lambda x: family.dynamics.game.payoffs[0](unravel(x)))
    return lambda v: jax.jvp(slope, (flat,), (v,))[1]


def _unit(v: Array) -> Array:
    return v / jnp.linalg.norm(v)


@jax.jit
def on_directions(family: Family, rows: Array, etas: Array) -> tuple[Array, Array, Array]:
    """V M(η) Vᵀ, its derivative by η and the residual, for rows V and each step size."""

    def one(eta: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        def here(eta: Array) -> tuple[Array, Array]:
            steps = each_player(eta, family.factors)
            tangent, at, image = linearization(family.dynamics, family.players, steps)
            residual = step_residual(family.dynamics, family.players, at, image, steps)
            images = jax.lax.map(tangent, rows, batch_size=8)
            matrix = jnp.einsum("ik,jk->ij", rows, images, precision="highest")
            return jnp.where(jnp.isnan(residual), jnp.nan, matrix), residual

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
    state: State = family.dynamics.first.shapes
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
            if not size <= _LEAST_PART:  # what is no number stays
                row = part / size
                for _ in range(2):
                    for other in rows:
                        row = row - (other @ row) * other
                rest = np.linalg.norm(row)
                if not rest <= _LEAST_ANGLE:
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
