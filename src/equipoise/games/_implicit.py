from typing import Any

import jax
from jax.flatten_util import ravel_pytree

from equipoise._check import positive_integer
from equipoise.games._game import Game, Players, field
from equipoise.games._newton import newton_root
from equipoise.games._rule import Projections, Rule, Steps, descend, make_rule, projector


def proximal_point(*, max_newton: int = 20, projections: Projections = None) -> Rule:
    r"""The implicit step: down the gradient of the place it leads to.

    .. math::

        z_{t+1} = \Pi\bigl(z_t - \eta F(z_{t+1})\bigr)

    On a bilinear game it converges for every step size, by 1/√(1 + η²σ²) a step.

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
    project = projector("games.proximal_point", projections)
    max_newton = positive_integer("games.proximal_point", "max_newton", max_newton)

    def advance(game: Game, z: Players, memory: Any, eta: Steps) -> tuple[Players, Any]:
        flat, unravel = ravel_pytree(z)

        def mismatch(u: jax.Array) -> jax.Array:
            return u - ravel_pytree(project(descend(z, eta, field(game, unravel(u)))))[0]

        return unravel(newton_root(mismatch, flat, max_steps=max_newton)), memory

    return make_rule("proximal_point", advance)
