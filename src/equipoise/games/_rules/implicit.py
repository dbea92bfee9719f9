"""Rules whose step is the solution of an equation."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from equipoise._check import at, positive_integer
from equipoise.games._rules.game import Game, Players, field, partial_gradient
from equipoise.games._rules.numerics import newton_root, solve_linear
from equipoise.games._rules.rule import (
    Memory,
    Projections,
    Rule,
    Steps,
    axpy,
    descend,
    make_rule,
    projector,
)


@at("games.proximal_point")
def proximal_point(*, max_newton: int = 20, projections: Projections = None) -> Rule:
    r"""The implicit step: along the gradient at the point where the step ends.

    .. math::

        z_{t+1} = \Pi\bigl(z_t - \eta F(z_{t+1})\bigr)

    On a bilinear game it converges for every step size, by 1/√(1 + η²σ²) per step.

    Args:
        max_newton: Newton steps allowed for one step of play, ≥ 1. A quadratic game needs one.
        projections: Π, as in ``simultaneous``.

    Returns:
        The rule; it remembers nothing. Where Newton's method does not arrive, a step leads to the
        point of least residual that it found.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None, or ``max_newton`` is no
            Python integer.
        ValueError: If ``max_newton`` < 1.

    Cost: a linear solve in all players' coordinates for each Newton step: dense up to 512
    coordinates, GMRES above. Derivatives cost one such solve more, whatever ``max_newton`` is.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.proximal_point()
        >>> p, q = games.simulate(game, rule, (2.0, 2.0), step_size=1.0, num_steps=2)
        >>> print(p, q)
        [ 2.  0. -1.] [2. 2. 1.]

    References:
        :cite:t:`rockafellar1976`
    """
    project = projector(projections)
    max_newton = positive_integer("max_newton", max_newton)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        flat, unravel = ravel_pytree(z)

        def mismatch(u: jax.Array) -> jax.Array:
            return u - ravel_pytree(project(descend(z, eta, field(game, unravel(u)))))[0]

        return unravel(newton_root(mismatch, flat, max_steps=max_newton)), memory

    return make_rule("proximal_point", advance, project=project)


@at("games.competitive")
def competitive(*, projections: Projections = None) -> Rule:
    r"""The step of both players to the equilibrium of a local bilinear game.

    .. math::

        \begin{pmatrix} I & \eta_x D_{xy} f \\ \eta_y D_{yx} g & I \end{pmatrix}
        \begin{pmatrix} \Delta x \\ \Delta y \end{pmatrix}
        = - \begin{pmatrix} \eta_x \nabla_x f \\ \eta_y \nabla_y g \end{pmatrix},
        \qquad z_{t+1} = \Pi(z_t + \Delta z)

    with f and g the two losses (g = −f in a zero-sum game). Eliminating Δy gives competitive
    gradient descent. On a bilinear game it is the proximal point method.

    Args:
        projections: Π, as in ``simultaneous``.

    Returns:
        The rule; it remembers nothing.

    Raises:
        TypeError: If ``projections`` is not a tuple of functions or None.
        ValueError: If the game has not two players (by ``init``).

    Cost: a linear solve in all players' coordinates per step: dense up to 512, GMRES on
    Jacobian–vector products above.

    Examples:
        >>> game, rule = games.zero_sum(lambda p, q: p * q), games.competitive()
        >>> p, q = games.simulate(game, rule, (2.0, 2.0), step_size=1.0, num_steps=2)
        >>> print(p, q)
        [ 2.  0. -1.] [2. 2. 1.]

    References:
        :cite:t:`schaefer2019`
    """
    project = projector(projections)

    def advance(game: Game, z: Players, memory: Memory, eta: Steps) -> tuple[Players, Memory]:
        x, y = z
        gradient = field(game, z)
        still = tuple(jax.tree.map(jnp.zeros_like, player) for player in z)
        rhs, unravel = ravel_pytree(descend(still, eta, gradient))

        def coupled(flat: jax.Array) -> jax.Array:
            dx, dy = unravel(flat)
            _, gx = jax.jvp(lambda v: partial_gradient(game, 0, (x, v)), (y,), (dy,))
            _, gy = jax.jvp(lambda u: partial_gradient(game, 1, (u, y)), (x,), (dx,))
            return ravel_pytree((axpy(eta[0], gx, dx), axpy(eta[1], gy, dy)))[0]

        moves = unravel(solve_linear(coupled, rhs))
        return project(tuple(axpy(1.0, d, p) for p, d in zip(z, moves, strict=True))), memory

    return make_rule("competitive", advance, num_players=2, project=project)
