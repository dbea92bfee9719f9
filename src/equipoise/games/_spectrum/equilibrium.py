"""Zeros of a game's vector field."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from equipoise._check import at, positive_integer
from equipoise._types import Array, Bool, Float, aligned, result
from equipoise.games._rules.dynamics import common_dtype
from equipoise.games._rules.game import (
    Game,
    Players,
    TracedGame,
    checked_players,
    field,
    traced_game,
)
from equipoise.games._rules.numerics import newton_root, rounding


@result
class Equilibrium:
    """A candidate for an equilibrium, and whether all gradients vanish there.

    Attributes:
        players: The positions.
        residual: The largest coordinate of the vector field there.
        converged: Whether ``residual`` is within the tolerance.
    """

    players: Players
    residual: Float[Array, ""]
    converged: Bool[Array, ""]

    def __str__(self) -> str:
        """The players and what is left of their gradients; in words where that is not rounding."""
        rows = [[f"  {name}", getattr(self, name)] for name in ("players", "residual", "converged")]
        known = not isinstance(self.converged, jax.core.Tracer) and not jnp.ndim(self.converged)
        stuck = known and not self.converged
        return f"Equilibrium\n{aligned(rows)}" + (
            "\n  No equilibrium: no step of Newton's method leaves less of the gradients. Start"
            " elsewhere, or raise max_steps." * stuck
        )


@at("games.find_equilibrium")
def find_equilibrium(
    game: Game, players: Players, *, max_steps: int = 50, tolerance: float | None = None
) -> Equilibrium:
    r"""A zero of the vector field near a start, by Newton's method.

    .. math::

        F(z) = 0, \qquad z \leftarrow z - t\, J(z)^{+} F(z)

    with the step length t, of 1, 1/2, … 1/128, that leaves least of F. Any stationary point is
    found, stable or not: ask ``stability`` which it is.

    Args:
        game: The game.
        players: The start, a tuple of one pytree per player.
        max_steps: Newton steps at most, ≥ 1.
        tolerance: The largest coordinate of F that counts as 0. Default: √ε of the dtype.

    Returns:
        The point of least residual on the way, and whether it is an equilibrium. It differentiates
        implicitly by all that the payoffs close over, not by the start. Where the equilibria form
        a continuum (up to 512 coordinates) it is one of them, and its derivative the shortest.

    Raises:
        TypeError: If a player is not real and floating-point, or ``max_steps`` no Python integer.
        ValueError: If the players do not fit the game, or ``max_steps`` < 1.

    Cost: N tangents of F and O(N³) per step up to 512 coordinates; GMRES on tangents above, where a
    singular J ends the search early.

    Examples:
        >>> game = games.zero_sum(lambda x, y: x * y - x + 2 * y)
        >>> found = games.find_equilibrium(game, (0.0, 0.0))
        >>> [float(z) for z in found.players], bool(found.converged)
        ([-2.0, 1.0], True)

    References:
        :cite:t:`mescheder2017`
    """
    max_steps = positive_integer("max_steps", max_steps)
    players = checked_players(game, players)
    if tolerance is None:
        tolerance = rounding(common_dtype(players), 0.5)
    return _found(traced_game(game, players), players, max_steps, tolerance)


@jax.jit
def _found(game: TracedGame, players: Players, max_steps: Array, tolerance: Array) -> Equilibrium:
    start, unravel = ravel_pytree(players)

    def flat_field(u: Array) -> Array:
        return ravel_pytree(field(game.again(), unravel(u)))[0]

    z = newton_root(flat_field, start, max_steps=max_steps, least_squares=True)
    residual = jnp.max(jnp.abs(flat_field(jax.lax.stop_gradient(z))))
    return Equilibrium(unravel(z), residual, residual <= tolerance)
