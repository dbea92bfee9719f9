"""Eigenvalues of the linearized update at an equilibrium, and what rounding does to them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

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
from equipoise.games._rules.rule import Ratios, Rule, State, Steps, check_rule
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
        residual = step_residual(self.dynamics, self.players, at, image, steps)
        matrix = dense_matrix(tangent, at.size, at.dtype)
        return jnp.where(jnp.isnan(residual), jnp.nan, matrix), residual

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
        there = layout(state)[1](at)
        at = layout(state)[0](State(self.dynamics.inside(there.players), there.memory))
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
    """The eigenvalues that meet at one of them.

    Attributes:
        eigenvalue: That one.
        members: Which meet there.
        simple: Whether it and its conjugate are the only ones on the circle, and simple.
    """

    eigenvalue: Array
    members: Array
    simple: Array


def eigenvalue_gap(matrices: Array) -> Array:
    """The distance below which eigenvalues are taken together."""
    return rounding(matrices.dtype, 0.4) * namespace(matrices).maximum(1, norm(matrices))


def cluster(values: Array, near: Array, top: Array, among: Array) -> _Cluster:
    """Of each row of values, the one at ``top`` with those that cannot be told from it.

    Only values ``among`` which it is are looked at to find whether it is simple.
    """
    xp = namespace(values, top)
    value = xp.take_along_axis(values, top[..., None], -1)
    near = near[..., None]
    members = xp.abs(values - value) <= near
    conjugates = xp.abs(values - xp.conj(value)) <= near
    on_circle = among & (xp.abs(xp.abs(values) - xp.abs(value)) <= near)
    alone = ~xp.any(on_circle & ~members & ~conjugates, axis=-1)
    return _Cluster(value[..., 0], members, (members.sum(-1) == 1) & alone)


def leading_eigenvalue(matrix: Array, values: Array, vectors: Array) -> Array:
    """The leading one of a matrix's eigenvalues; see ``eigenvalue_at``."""
    return eigenvalue_at(matrix, values, vectors, leading(values))


@jax.custom_jvp
def eigenvalue_at(matrix: Array, values: Array, vectors: Array, index: Array) -> Array:
    """One of a matrix's eigenvalues, which come with unit eigenvectors.

    Its derivative is that of the mean of those that meet there.
    """
    return values[index]


@eigenvalue_at.defjvp
def _eigenvalue_at_jvp(
    primals: tuple[Array, Array, Array, Array], tangents: tuple[Array, Array, Array, Array]
) -> tuple[Array, Array]:
    matrix, values, vectors, index = primals
    met = cluster(values, eigenvalue_gap(matrix), index, jnp.ones(values.shape, bool))
    weights = met.members.astype(values.dtype)
    weights = weights / jnp.sum(weights)
    # P = V C V⁻¹, so that trace(P dM) is the derivative of the cluster's mean.
    projector = jnp.linalg.solve(vectors.T, (vectors * weights[None, :]).T).T
    return met.eigenvalue, jnp.sum(projector * tangents[0].T.astype(projector.dtype))


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


def step_residual(
    dynamics: Dynamics, players: Players, at: Array, image: Array, eta: Steps
) -> Array:
    """The largest move of a player's coordinate in one step, per unit of the largest step size.

    Memory may move by itself. NaN where a payoff is no finite number: what derivatives it has
    say nothing then.
    """
    here = ravel_pytree(players)[0].astype(image.dtype)
    at, there = at[: here.size], image[: here.size]  # the players come first
    # ``at`` is off the edges of projections, which may lead back to them.
    move = jnp.max(jnp.where(there == here, 0, jnp.abs(there - at)))
    largest = jnp.max(jnp.stack([e.astype(image.dtype) for e in eta]))
    residual = jnp.where(largest > 0, move / jnp.where(largest > 0, largest, 1), move)
    finite = jnp.all(jnp.isfinite(jnp.stack([loss(*players) for loss in dynamics.game.payoffs])))
    return jnp.where(finite, residual, jnp.nan)


def not_at_rest(residual: Array) -> str:
    """A line that says where a residual is beyond what ``find_equilibrium`` takes for one."""
    if not residual > rounding(residual.dtype, 0.5):
        return ""
    return (
        f"\n  No equilibrium: a step moves by {float(residual):.3g}·η, and play goes on from here,"
        " whatever the spectrum says."
    )
