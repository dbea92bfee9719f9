"""The step size at which an equilibrium stops attracting, from the spectrum."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check import at, positive_integer
from equipoise._types import Array
from equipoise.games._critical.critical_step import (
    FLIP,
    FOLD,
    NEIMARK_SACKER,
    NOT_LOST,
    CriticalStep,
    resonance,
)
from equipoise.games._critical.crossing import Bracket, bound_slack, explore, implicit, polish
from equipoise.games._rules.game import Game, Players, checked_players
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import (
    Ratios,
    Rule,
    Steps,
    check_rule,
    checked_step_size,
    common_step,
)
from equipoise.games._spectrum.spectrum import (
    cluster,
    eigenvalue_gap,
    fixed_matrix,
    linearization,
    step_residual,
    update_matrix,
)


@at("games.critical_step_size")
def critical_step_size(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    *,
    max_step_size: float | Array,
    step_ratios: Ratios | None = None,
    num_evaluations: int = 128,
) -> CriticalStep:
    r"""Smallest step size at which an equilibrium stops attracting, from the spectrum.

    .. math::

        \eta^* = \sup\{\eta : \rho(s) < 1 \text{ for all } 0 < s < \eta\}, \qquad
        \frac{d\eta^*}{dp} = -\frac{\partial_p |\lambda|}{\partial_\eta |\lambda|}

    with ρ the spectral radius of the update map's Jacobian on the full state, memory included.
    Half of the evaluations of the spectrum lie on a geometric grid from 10⁻⁵ of the game's natural
    step to ``max_step_size``; the others halve, in batches of 16, the intervals in which an
    eigenvalue can reach the circle, judged by how far it moves there and whether two can meet. The
    first crossing is then polished to rounding. A window of instability that is narrower than the
    intervals and that no eigenvalue beside it announces can be missed: more evaluations narrow it.

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree a player.
        max_step_size: Where the search ends. A positive number.
        step_ratios: Factors rᵢ of the common step, one a player: player i moves with rᵢ·η.
            Default: 1 for everybody.
        num_evaluations: How many spectra are taken, rounded up to a multiple of 16, ≥ 32.

    Returns:
        The critical step and how it is lost; see ``CriticalStep``. Both step sizes differentiate
        once, in forward and reverse mode, by whatever the payoffs, the rule, the ratios and the
        equilibrium depend on; the equilibrium moves with the game by itself. Where several
        eigenvalues meet (``simple`` is false) the derivative is that of their mean. Both are NaN
        where the update has no derivative at the equilibrium, and a step size is NaN where a
        spectrum on the way to it is.

    Raises:
        TypeError: If a player is not real and floating-point, or ``rule`` is no rule.
        ValueError: If the players do not fit the game or the rule, a step size or ratio is negative
            or NaN, or ``num_evaluations`` < 32.

    Cost: ``num_evaluations`` N×N matrices (N tangents of a step each) and their eigenvalues, N the
    size of the full state. It compiles at every call outside ``jax.jit``.

    Examples:
        Extragradient on p·q is lost at η = 1, with a rotation by a quarter turn.

        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> lost = games.critical_step_size(
        ...     game, games.extragradient(), (0.0, 0.0), max_step_size=10.0)
        >>> round(float(lost.step_size), 5), lost.resonance.tolist()
        (1.0, [1, 4])

        The largest stable learning rate of gradient descent is 2/λ_max.

        >>> steep = games.general_sum(lambda x: 4 * x**2)
        >>> lost = games.critical_step_size(
        ...     steep, games.simultaneous(), (0.0,), max_step_size=10.0)
        >>> round(float(lost.step_size), 5), int(lost.kind) == games.FLIP
        (0.25, True)

    References:
        :cite:t:`mescheder2017`; :cite:t:`kuznetsov2004`
    """
    check_rule(rule)
    players = checked_players(game, equilibrium, "equilibrium")
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(players)))
    limit = checked_step_size("max_step_size", max_step_size).astype(dtype)
    num = positive_integer("num_evaluations", num_evaluations, minimum=32)
    steps = common_step(step_ratios, len(players), dtype)
    return jax.jit(lambda limit: _critical(game, rule, players, steps, limit, num))(limit)


def _critical(
    game: Game,
    rule: Rule,
    players: Players,
    steps: Callable[[Array], Steps],
    limit: Array,
    num: int,
) -> CriticalStep:
    def matrix(eta: Array) -> Array:
        """M(η), the Jacobian of the update at the equilibrium."""
        return update_matrix(game, rule, players, steps(eta))

    # The search is a constant of the derivative, so its parameters must be explicit.
    hoisted, parameters = jax.closure_convert(matrix, limit)
    parameters = jax.lax.stop_gradient(parameters)
    limit = jax.lax.stop_gradient(limit)

    def family(eta: Array) -> Array:
        return hoisted(eta, *parameters)

    _, slope = jax.jvp(family, (jnp.zeros_like(limit),), (jnp.ones_like(limit),))
    scale = 1 / jnp.linalg.norm(slope)
    # Infinite where the game is flat, NaN where the update has no derivative.
    undefined = jnp.isnan(scale)
    brackets = jax.tree.map(lambda a, b: jnp.stack([a, b]), *explore(family, scale, limit, num))

    def settle(bracket: Bracket, strict: Array) -> tuple[Array, ...]:
        """One of the two step sizes, differentiable, with the eigenvalue that it belongs to."""

        def happened(rho: Array, level: Array) -> Array:
            return jnp.where(strict, rho > 1 + bound_slack(rho.dtype), rho >= 1 - level)

        eta = jax.lax.stop_gradient(polish(family, bracket, happened))
        there = family(eta)
        critical = cluster(*jnp.linalg.eig(there), eigenvalue_gap(there))
        moved = implicit(lambda s: fixed_matrix(game, rule, players, steps, s), eta, critical)
        step_size = jnp.where(bracket.found, jnp.where(bracket.low > 0, moved, 0), jnp.inf)
        return (
            jnp.where(bracket.known, step_size, jnp.nan),
            jnp.where(bracket.low > 0, critical.eigenvalue, 1),
            (bracket.low > 0) & bracket.found & bracket.known,
            critical.simple,
        )

    etas, eigenvalues, lost, simple = jax.vmap(settle)(brackets, jnp.array([False, True]))
    step_size, neutral = etas
    # One crossing loses both; the two ways to polish it agree to rounding.
    same = jnp.abs(neutral - step_size) <= rounding(neutral.dtype, 0.6) * step_size
    neutral = jnp.where(same, step_size, jnp.maximum(neutral, step_size))
    step_size, neutral = (jnp.where(undefined, jnp.nan, s) for s in (step_size, neutral))
    which = jnp.where(lost[0], 0, 1)
    is_lost, eigenvalue = lost[which] & ~undefined, eigenvalues[which]
    angle = jnp.abs(jnp.angle(eigenvalue))
    near = rounding(angle.dtype, 0.4)
    kind = jnp.where(angle < near, FOLD, jnp.where(angle > jnp.pi - near, FLIP, NEIMARK_SACKER))
    probe = steps(jnp.where(undefined, limit, jnp.minimum(scale, limit)))
    _, here, image = linearization(game, rule, players, probe)
    return CriticalStep(
        step_size=step_size,
        neutral_step_size=neutral,
        eigenvalue=eigenvalue,
        angle=angle,
        kind=jnp.where(is_lost, kind, NOT_LOST).astype(jnp.int32),
        resonance=jnp.where(is_lost, resonance(angle), 0),
        simple=simple[which] & is_lost,
        residual=step_residual(here, image, probe),
    )
