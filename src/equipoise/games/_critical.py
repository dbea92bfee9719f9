from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from equipoise._check_old import positive_integer
from equipoise._types import Array, Bool, Float, Int, Shaped, aligned, result
from equipoise.games._crossing import Bracket, bound_slack, explore, polish
from equipoise.games._derivative import fixed_matrix, implicit
from equipoise.games._game import Game, Players, checked_players
from equipoise.games._newton import dense_matrix, rounding
from equipoise.games._rule import Rule, checked_step_size, common_step
from equipoise.games._simulate import check_rule
from equipoise.games._spectrum import cluster, eigenvalue_gap, linearization, step_residual

#: Kind of a critical step: the equilibrium is not lost up to the largest step size.
NOT_LOST = 0
#: Kind of a critical step: an eigenvalue reaches 1.
FOLD = 1
#: Kind of a critical step: an eigenvalue reaches −1.
FLIP = 2
#: Kind of a critical step: an eigenvalue reaches the unit circle elsewhere.
NEIMARK_SACKER = 3
KINDS = {NOT_LOST: "not lost", FOLD: "fold", FLIP: "flip", NEIMARK_SACKER: "Neimark-Sacker"}
LARGEST_RESONANCE = 12


@result
class CriticalStep:
    """The step size at which an equilibrium stops attracting, and how it does.

    Where it never attracts, the eigenvalue, angle, kind and resonance are those at
    ``neutral_step_size``.

    Attributes:
        step_size: The equilibrium attracts on (0, ``step_size``): 0 where it never does, infinity
            where it does up to ``max_step_size``.
        neutral_step_size: ρ ≤ 1 on (0, ``neutral_step_size``): 0 or infinity likewise.
        eigenvalue: The eigenvalue that reaches the unit circle; of a pair, the one above the axis.
        angle: Its angle, in [0, π] radians.
        kind: ``FOLD`` (at 1), ``FLIP`` (at −1), ``NEIMARK_SACKER`` (elsewhere), ``NOT_LOST``.
        resonance: (p, q) where the angle is 2πp/q with q ≤ 12, otherwise (0, 0).
        simple: Whether that eigenvalue and its conjugate are the only ones on the circle, and
            simple. Only then is the derivative of the step size a fact rather than a convention.
        residual: How far one step moves from the equilibrium, in the largest coordinate, per unit
            of step size. Large means that the players are in no equilibrium.
    """

    step_size: Float[Array, ""]
    neutral_step_size: Float[Array, ""]
    eigenvalue: Shaped[Array, ""]
    angle: Float[Array, ""]
    kind: Int[Array, ""]
    resonance: Int[Array, "2"]
    simple: Bool[Array, ""]
    residual: Float[Array, ""]

    def __str__(self) -> str:
        """The step sizes, and how the equilibrium is lost, in words."""
        if isinstance(self.kind, jax.core.Tracer) or jnp.ndim(self.kind):
            return repr(self)
        names = ["step_size", "neutral_step_size", "eigenvalue", "angle"]
        p, q = (int(number) for number in self.resonance)
        rows = [
            *([f"  {name}", getattr(self, name)] for name in names),
            ["  kind", KINDS[int(self.kind)]],
            ["  resonance", f"{p}:{q}" if q else "none"],
            ["  simple", bool(self.simple)],
            ["  residual", self.residual],
        ]
        return f"CriticalStep\n{aligned(rows)}"


def critical_step_size(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    *,
    max_step_size: float | Array,
    step_ratios: Sequence[float | Array] | Array | None = None,
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
        where the update has no derivative at the equilibrium.

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
    where = "games.critical_step_size"
    check_rule(where, rule)
    players = checked_players(where, game, equilibrium, "equilibrium")
    dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(players)))
    limit = checked_step_size(where, "max_step_size", max_step_size).astype(dtype)
    num = positive_integer(where, "num_evaluations", num_evaluations, minimum=32)
    steps = common_step(where, step_ratios, len(players), dtype)
    lost: CriticalStep = jax.jit(lambda limit: _critical(game, rule, players, steps, limit, num))(
        limit
    )
    return lost


def _critical(
    game: Game,
    rule: Rule,
    players: Players,
    steps: Callable[[Array], tuple[Array, ...]],
    limit: Array,
    num: int,
) -> CriticalStep:
    def matrix(eta: Array) -> Array:
        """M(η), the Jacobian of the update at the equilibrium."""
        tangent, at, _ = linearization(game, rule, players, steps(eta))
        return dense_matrix(tangent, at.size, at.dtype)

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
        return (
            jnp.where(bracket.found, jnp.where(bracket.low > 0, moved, 0), jnp.inf),
            jnp.where(bracket.low > 0, critical.eigenvalue, 1),
            (bracket.low > 0) & bracket.found,
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
    _, at, image = linearization(game, rule, players, probe)
    return CriticalStep(
        step_size=step_size,
        neutral_step_size=neutral,
        eigenvalue=eigenvalue,
        angle=angle,
        kind=jnp.where(is_lost, kind, NOT_LOST).astype(jnp.int32),
        resonance=jnp.where(is_lost, resonance(angle), 0),
        simple=simple[which] & is_lost,
        residual=step_residual(at, image, probe),
    )


def resonance(angle: Array) -> Array:
    """(p, q) of least q ≤ 12 with angle = 2πp/q up to rounding, otherwise (0, 0).

    Rounding is ε^0.45: an eigenvalue that two others meet has lost half of its digits.
    """
    q = jnp.arange(1, LARGEST_RESONANCE + 1, dtype=angle.dtype)
    turns = angle / (2 * jnp.pi) * q
    fits = jnp.abs(turns - jnp.round(turns)) < rounding(angle.dtype, 0.45) * q
    k = jnp.argmax(fits)
    pair = jnp.stack([jnp.round(turns[k]), q[k]]).astype(jnp.int32)
    return jnp.where(jnp.any(fits), pair, 0)
