"""The step size at which an equilibrium stops attracting, from the spectrum."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from equipoise._check import at, is_traced, positive_integer
from equipoise._types import Array
from equipoise.games._critical.critical_step import (
    FLIP,
    FOLD,
    NEIMARK_SACKER,
    NOT_LOST,
    CriticalStep,
    resonance,
)
from equipoise.games._critical.crossing import BATCH, Measure, explore, polish
from equipoise.games._critical.derivative import with_derivative
from equipoise.games._critical.directions import Directions, moving
from equipoise.games._rules.dynamics import common_dtype, typed
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import Ratios, Rule, checked_step_size
from equipoise.games._spectrum.algebra import eigenvalues, namespace
from equipoise.games._spectrum.matrix_free import is_matrix_free, searched
from equipoise.games._spectrum.spectrum import (
    Family,
    cluster,
    eigenvalue_gap,
    family_of,
    norm,
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
    method: str = "auto",
) -> CriticalStep:
    r"""Smallest step size at which an equilibrium stops attracting, from the spectrum.

    .. math::

        \eta^* = \sup\{\eta : \rho(s) < 1 \text{ for all } 0 < s < \eta\}, \qquad
        \frac{d\eta^*}{dp} = -\frac{\partial_p |\lambda|}{\partial_\eta |\lambda|}

    with ρ the spectral radius of the update map's Jacobian on the full state, memory included.
    Half of the evaluations of the spectrum lie on a geometric grid from ε^⅓ of the game's
    natural step to ``max_step_size``; the others halve, in batches of 16, the intervals in which an
    eigenvalue can reach the circle, judged by how far it moves there and whether two can meet. The
    first crossing is then polished to rounding. A window of instability that is narrower than the
    intervals and that no eigenvalue beside it announces can be missed: more evaluations narrow it.

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree per player.
        max_step_size: Where the search ends. A positive number.
        step_ratios: Factors rᵢ of the common step, one per player: player i moves with rᵢ·η.
            Default: 1 for all.
        num_evaluations: How many spectra are taken, rounded up to a multiple of 16, ≥ 32.
        method: ``"dense"``, ``"matrix_free"``, or ``"auto"``: dense up to 2048 unknowns of
            the full state. Without a matrix the same search runs on a few directions: the
            eigenvectors that Arnoldi finds at ``max_step_size`` and then at the step found so
            far, until it stays; each is taken apart by player and memory. Where one player plays a
            rule that treats coordinates alike, they are its most and its least curved direction.

    Returns:
        The critical step and how it is lost; see ``CriticalStep``. The step sizes differentiate
        once, in forward and reverse mode, by whatever the payoffs, the rule, the ratios and the
        equilibrium depend on; the equilibrium moves with the game by itself. The other fields are
        constants of differentiation. Where several eigenvalues meet (``simple`` is false) the
        derivative is that of their mean. All are NaN where the update has no derivative at the
        equilibrium, and a step size is NaN where a spectrum on the way to it is. On an edge of a
        projection, derivatives are those of its inner side. Without a matrix all fields are
        constants of differentiation, and directions are counted among those looked at alone.

        A direction is flat where abs(∂λ/∂η) is at most √ε of ‖∂M/∂η‖ at small η: equilibria are
        found to √ε, and their spectra are known no better. A direction that comes back into the
        circle counts as attracted from there on, and so does one that turned along it.

    Raises:
        TypeError: If a player is not real and floating-point, or ``rule`` is no rule.
        ValueError: If the players do not fit the game or the rule, a step size or ratio is negative
            or NaN, ``num_evaluations`` < 32, or ``method`` is none of the three; without a
            matrix, if a value is traced; dense, if the matrices of one batch cannot fit.

    Cost: ``num_evaluations`` N×N matrices (N tangents of a step each) and their eigenvalues, N the
    size of the full state. The matrices are one program, found again by what game and rule compute;
    the search runs on the host, or in the program of a caller that is traced. Without a matrix some
    hundreds of tangents for each Arnoldi search, as many as directions for each spectrum, and
    memory of about 60 states.

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
    num = positive_integer("num_evaluations", num_evaluations, minimum=32)
    family = family_of(game, rule, equilibrium, step_ratios)
    limit = checked_step_size("max_step_size", max_step_size)
    limit = typed(limit, common_dtype(family.players))
    if is_matrix_free(method, family):
        return searched(family, limit, num, _search)
    found, lost = _found(*jax.lax.stop_gradient((family, limit)), num)
    steps = found.step_size, found.neutral_step_size, found.attracted_step_size
    step_size, neutral, attracted = with_derivative(family, lost, steps)
    return dataclasses.replace(
        found,
        step_size=step_size,
        neutral_step_size=neutral,
        attracted_step_size=attracted,
    )


def _found(family: Family, limit: Array, num: int) -> tuple[CriticalStep, Array]:
    """The critical step and the eigenvalue of each event, by NumPy where everything is known."""
    if any(map(is_traced, jax.tree.leaves((family, limit)))):
        return search_compiled(family, limit, num)
    start = measured(family, np.zeros(BATCH, limit.dtype))
    if any(map(is_traced, start)):  # all is known, but a program is being traced
        return search_compiled(family, limit, num)

    def measure(etas: Array) -> tuple[Array, Array, Array]:
        # One shape, one program.
        filled = np.concatenate([etas, np.full(BATCH - etas.size, etas[-1])])
        return jax.tree.map(lambda x: np.asarray(x)[: etas.size], measured(family, filled))

    with np.errstate(all="ignore"):
        found = _search(measure, np.asarray(start[1])[0], limit, num)
    return jax.device_put(found)


@jax.jit
def measured(family: Family, etas: Array) -> tuple[Array, Array, Array]:
    """M(η), ∂M/∂η and the residual for each step size."""

    def one(eta: Array) -> tuple[Array, Array, Array]:
        here, along = jax.jvp(family.here, (eta,), (jnp.ones_like(eta),))
        return here[0], along[0], here[1]

    return jax.vmap(one)(etas)


@functools.partial(jax.jit, static_argnums=2)
def search_compiled(family: Family, limit: Array, num: int) -> tuple[CriticalStep, Array]:
    """The search as one program."""
    measure = functools.partial(measured, family)
    _, slopes, _ = measure(jnp.zeros(1, limit.dtype))
    return _search(measure, slopes[0], limit, num)


def _search(measure: Measure, slope: Array, limit: Array, num: int) -> tuple[CriticalStep, Array]:
    xp = namespace(limit)
    # Infinite where the game is flat, NaN where the update has no derivative.
    scale = 1 / norm(slope)
    undefined = xp.isnan(scale)
    bracket, known = explore(measure, slope.shape[-1], scale, limit, num)
    etas, lost_values = polish(measure, bracket, known)
    probe = xp.where(undefined, limit, xp.minimum(scale, limit))
    matrices, _, residuals = measure(xp.concatenate([etas, probe[None]]))

    attracts = bracket.low > 0
    etas = xp.where(bracket.found, xp.where(attracts, etas, 0), xp.inf)
    step_size, neutral, attracted = xp.where(bracket.known & ~undefined, etas, xp.nan)
    is_attractor = ~(step_size == 0)
    attracted = xp.where(is_attractor, step_size, attracted)
    known = Directions(*(xp.where(is_attractor, 0, count) for count in known))
    # One crossing loses both; the two ways to polish it agree to rounding.
    same = xp.abs(neutral - attracted) <= rounding(neutral.dtype, 0.6) * neutral
    same = same & xp.isfinite(neutral)
    neutral = xp.where(same, attracted, xp.maximum(neutral, step_size))

    values = eigenvalues(matrices[:3])
    near = eigenvalue_gap(matrices[:3])
    sizes = moving(values, xp.abs(values - 1), known.flat)
    top = xp.argmin(xp.abs(values - lost_values[:, None]), axis=-1)
    size = xp.abs(values[np.arange(3), top])[:, None]
    # Beside the flat ones lie those that are hardly attracted, beyond it those that are repelled.
    inner = (sizes >= 0) & (sizes <= size + near[:, None])
    inner = inner & (is_attractor | (xp.abs(values - 1) > near[:, None]))
    critical = cluster(values, near, top, inner)
    lost = attracts & bracket.found & bracket.known & ~undefined
    which = xp.where(lost[0], 0, xp.where(lost[2], 2, 1))
    is_lost, eigenvalue = lost[which], xp.where(attracts, critical.eigenvalue, 1)[which]
    angle = xp.abs(xp.angle(eigenvalue))
    few = rounding(angle.dtype, 0.4)
    kind = xp.where(angle < few, FOLD, xp.where(angle > xp.pi - few, FLIP, NEIMARK_SACKER))
    found = CriticalStep(
        step_size=step_size,
        neutral_step_size=neutral,
        attracted_step_size=attracted,
        num_flat=known.flat,
        num_repelling=known.repelling,
        eigenvalue=eigenvalue,
        angle=angle,
        kind=xp.where(is_lost, kind, NOT_LOST).astype(np.int32),
        resonance=xp.where(is_lost, resonance(angle), 0),
        simple=critical.simple[which] & is_lost,
        residual=residuals[3],
    )
    return found, critical.eigenvalue
