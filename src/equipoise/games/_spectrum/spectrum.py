"""Eigenvalues of the linearized update at an equilibrium, and what rounding does to them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array, record
from equipoise.games._rules.dynamics import (
    Dynamics,
    Factors,
    checked_ratios,
    each_player,
    held_dynamics,
)
from equipoise.games._rules.game import Game, Players, checked_players
from equipoise.games._rules.numerics import dense_matrix, rounding
from equipoise.games._rules.rule import Ratios, Rule, Steps, check_rule
from equipoise.games._spectrum.algebra import namespace
from equipoise.games._spectrum.update_map import flat_step, layout, settled


def linearization(
    dynamics: Dynamics, players: Players, eta: Steps
) -> tuple[Callable[[Array], Array], Array, Array]:
    """The tangent map of the full state, the flat state it is taken at, and where that goes."""
    state = settled(dynamics, players, eta)
    at = layout(state)[0](state)
    image, tangent = jax.linearize(lambda flat: flat_step(dynamics, eta, state, flat), at)
    return tangent, at, image


@record
class Family:
    """M(η), the Jacobian of the update on the full state at given players."""

    dynamics: Dynamics
    players: Players
    factors: Factors

    def here(self, eta: Array) -> tuple[Array, Array]:
        """M(η), and how far a step moves from the players."""
        steps = each_player(eta, self.factors)
        tangent, at, image = linearization(self.dynamics, self.players, steps)
        return dense_matrix(tangent, at.size, at.dtype), step_residual(at, image, steps)

    def at_rest(self, eta: Array) -> Array:
        """M(η) at the fixed point, which follows the game and η to first order."""
        steps = each_player(eta, self.factors)
        state = settled(self.dynamics, self.players, steps)
        at = layout(state)[0](state)

        def step(flat: Array) -> Array:
            return flat_step(self.dynamics, steps, state, flat)

        image, tangent = jax.linearize(step, at)
        slip = jnp.eye(at.size, dtype=at.dtype) - dense_matrix(tangent, at.size, at.dtype)
        at = at + jax.lax.stop_gradient(jnp.linalg.pinv(jax.lax.stop_gradient(slip))) @ (image - at)
        _, tangent = jax.linearize(step, at)
        return dense_matrix(tangent, at.size, at.dtype)


def family_of(
    game: Game, rule: Rule, equilibrium: Players, step_ratios: Ratios | None = None
) -> Family:
    """M(η) of a rule at an equilibrium, checked."""
    check_rule(rule)
    players = checked_players(game, equilibrium, "equilibrium")
    return Family(held_dynamics(game, rule, players), players, checked_ratios(step_ratios, players))


@jax.jit
def update_matrices(family: Family, etas: Array) -> Array:
    """M(η) for each step size."""
    return jax.vmap(lambda eta: family.here(eta)[0])(etas)


def norm(matrices: Array) -> Array:
    """Of each matrix (..., n, n)."""
    return namespace(matrices).sqrt((matrices**2).sum((-2, -1)))


def rounding_level(matrices: Array) -> Array:
    """What rounding does to the modulus of a well-conditioned eigenvalue, with a margin."""
    n = matrices.shape[-1]
    return 8 * n * rounding(matrices.dtype) * namespace(matrices).maximum(1, norm(matrices))


def leading(values: Array) -> Array:
    """Which of the last axis has the largest modulus; of a pair, the one above the axis."""
    xp = namespace(values)
    size = xp.abs(values)
    near = size >= size.max(-1, keepdims=True) * (1 - 8 * rounding(size.dtype))
    return xp.argmax(xp.where(near, values.imag, -xp.inf), axis=-1)


class _Cluster(NamedTuple):
    """The eigenvalues that meet at the leading one.

    Attributes:
        eigenvalue: The leading one.
        members: Which meet there.
        simple: Whether it and its conjugate are the only ones on the circle, and simple.
    """

    eigenvalue: Array
    members: Array
    simple: Array


def eigenvalue_gap(matrices: Array) -> Array:
    """The distance below which eigenvalues are taken together."""
    return rounding(matrices.dtype, 0.4) * namespace(matrices).maximum(1, norm(matrices))


def cluster(values: Array, near: Array) -> _Cluster:
    """The leading eigenvalue with those that cannot be told from it, of each row of values."""
    xp = namespace(values)
    top = xp.take_along_axis(values, leading(values)[..., None], -1)
    near = near[..., None]
    members = xp.abs(values - top) <= near
    conjugates = xp.abs(values - xp.conj(top)) <= near
    on_circle = xp.abs(xp.abs(values) - xp.abs(top)) <= near
    alone = ~xp.any(on_circle & ~members & ~conjugates, axis=-1)
    return _Cluster(top[..., 0], members, (members.sum(-1) == 1) & alone)


@jax.custom_jvp
def leading_eigenvalue(matrix: Array, values: Array, vectors: Array) -> Array:
    """The leading one of a matrix's eigenvalues, which come with unit eigenvectors.

    Its derivative is that of the mean of those that meet there.
    """
    return values[leading(values)]


@leading_eigenvalue.defjvp
def _leading_eigenvalue_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    matrix, values, vectors = primals
    top = cluster(values, eigenvalue_gap(matrix))
    weights = top.members.astype(values.dtype)
    weights = weights / jnp.sum(weights)
    # P = V C V⁻¹, so that trace(P dM) is the derivative of the cluster's mean.
    projector = jnp.linalg.solve(vectors.T, (vectors * weights[None, :]).T).T
    return top.eigenvalue, jnp.sum(projector * tangents[0].T.astype(projector.dtype))


def eigenvalue_noise(matrix: Array, vectors: Array) -> Array:
    """First-order bound of rounding in each eigenvalue: ε·‖M‖ times its condition number."""
    condition = jnp.linalg.norm(jnp.linalg.inv(vectors), axis=1)
    noise = rounding_level(matrix) * jnp.where(jnp.isnan(condition), jnp.inf, condition)
    return jnp.minimum(noise, rounding(noise.dtype, 0.4))


def parallel(vectors: Array, chosen: Array) -> Array:
    """Whether the chosen unit eigenvectors are linearly dependent, to the root of rounding."""
    kept = jnp.where(chosen, vectors, 0)
    gram = kept.conj().T @ kept + jnp.diag(jnp.where(chosen, 0, 1).astype(vectors.dtype))
    return jnp.linalg.eigvalsh(gram)[0] < 100 * rounding(gram.dtype)


def step_residual(at: Array, image: Array, eta: tuple[Array, ...]) -> Array:
    """The largest move of a coordinate in one step, per unit of the largest step size."""
    largest = jnp.max(jnp.stack([e.astype(at.dtype) for e in eta]))
    move = jnp.max(jnp.abs(image - at))
    return jnp.where(largest > 0, move / jnp.where(largest > 0, largest, 1), move)
