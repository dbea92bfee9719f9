"""Rules in which a player answers an extrapolation of the other's move."""

import jax

from equipoise._check import at
from equipoise._types import Array, PyTree
from equipoise.games._rules.game import Game, Players, partial_gradient
from equipoise.games._rules.rule import (
    Memory,
    Projections,
    Rule,
    Steps,
    axpy,
    descend_one,
    make_rule,
    projector,
)


@at("games.primal_dual_hybrid")
def primal_dual_hybrid(theta: float | jax.Array = 1.0, *, projections: Projections = None) -> Rule:
    r"""The second player answers an extrapolation of the first one's move.

    .. math::

        x_{t+1} = \Pi_x\bigl(x_t - \eta_x \nabla_x f(x_t, y_t)\bigr), \quad
        \bar x = x_{t+1} + \theta (x_{t+1} - x_t), \quad
        y_{t+1} = \Pi_y\bigl(y_t - \eta_y \nabla_y g(\bar x, y_t)\bigr)

    with f and g the two losses (g = −f in a zero-sum game). It is the method for bilinear coupling
    with gradients and projections in place of proximal steps of simple terms. On a bilinear game
    with θ = 1 it converges exactly for ηₓηᵧσ² < 4/3.

    Args:
        theta: θ, the extrapolation. A number; 0 is alternating play.
        projections: Πₓ and Πᵧ, as in ``simultaneous``; the extrapolation is not projected.

    Returns:
        The rule; it remembers nothing.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.
        ValueError: If the game has not two players (by ``init``).

    Cost: one partial gradient per player and step.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.primal_dual_hybrid()
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [1.  0.5  0. ] [1. 1. 0.75]

    References:
        :cite:t:`chambolle2011`, algorithm 1
    """
    project = projector(projections)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        x, y = z
        x_next = project.one(0, descend_one(x, eta[0], partial_gradient(game, 0, z)))
        bar = _extrapolated(x, x_next, 1.0 + theta)
        y_next = project.one(1, descend_one(y, eta[1], partial_gradient(game, 1, (bar, y))))
        return (x_next, y_next), memory

    return make_rule("primal_dual_hybrid", advance, num_players=2, project=project)


@at("games.alternating_extrapolation")
def alternating_extrapolation(
    gamma: float | jax.Array, delta: float | jax.Array, *, projections: Projections = None
) -> Rule:
    r"""Alternating play, each answering an extrapolation of the other's move.

    .. math::

        x_{t+1} &= \Pi_x\bigl(x_t - \eta_x \nabla_x f(x_t, \tilde y_t)\bigr), &
        \tilde x_{t+1} &= \gamma x_{t+1} + (1 - \gamma) x_t, \\
        y_{t+1} &= \Pi_y\bigl(y_t - \eta_y \nabla_y g(\tilde x_{t+1}, y_t)\bigr), &
        \tilde y_{t+1} &= \delta y_{t+1} + (1 - \delta) y_t

    with f and g the two losses and ỹ₀ = y₀. γ = δ = 1 is alternating, γ = 0 with δ = 1 simultaneous
    play. On a bilinear game γ, δ > 1 make it converge for small steps.

    Args:
        gamma: γ, the extrapolation that the second player sees. A number.
        delta: δ, the extrapolation that the first player sees. A number.
        projections: Πₓ and Πᵧ, as in ``simultaneous``; the extrapolations are not projected.

    Returns:
        The rule; it remembers ỹ.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.
        ValueError: If the game has not two players (by ``init``).

    Cost: one partial gradient per player and step.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> rule = games.alternating_extrapolation(2.0, 1.0)
        >>> p, q = games.simulate(game, rule, (1.0, 1.0), step_size=0.5, num_steps=2)
        >>> print(p, q)
        [1.  0.5  0. ] [1. 1. 0.75]

    References:
        :cite:t:`lee2024`
    """
    project = projector(projections)

    def advance(game: Game, z: Players, seen: PyTree[Array], eta: Steps) -> tuple[Players, Memory]:
        x, y = z
        x_next = project.one(0, descend_one(x, eta[0], partial_gradient(game, 0, (x, seen))))
        tilde = _extrapolated(x, x_next, gamma)
        y_next = project.one(1, descend_one(y, eta[1], partial_gradient(game, 1, (tilde, y))))
        return (x_next, y_next), _extrapolated(y, y_next, delta)

    return make_rule(
        "alternating_extrapolation",
        advance,
        lambda game, z, eta: z[1],
        num_players=2,
        project=project,
    )


def _extrapolated(
    old: PyTree[Array], new: PyTree[Array], weight: float | jax.Array
) -> PyTree[Array]:
    """``old + weight (new − old)``."""
    return axpy(weight, jax.tree.map(lambda a, b: a - b, new, old), old)
