"""The step size at which trajectories stop converging, from them alone."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from equipoise._check import at, is_traced, positive_integer, value_error
from equipoise._types import Array, Float, result
from equipoise.games._play.lanes import NUM_PARTS
from equipoise.games._play.sweep import LONG, Runs, runs_of, swept
from equipoise.games._rules.dynamics import common_dtype, each_player, typed
from equipoise.games._rules.game import Game, Players, checked_players
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import Ratios, Rule, check_rule, checked_step_size
from equipoise.games._rules.verdict import CONVERGES, DIVERGES, UNDEFINED


@result
class SimulatedCriticalStep:
    """Where trajectories stop converging, and where they begin to diverge.

    Attributes:
        step_size: The estimate: 0 where no run converged, infinity where all did.
        neutral_step_size: Likewise for the loss of boundedness.
        low: A step size below ``step_size`` at which the run converged (0 if none did).
        high: A step size above ``step_size`` at which it did not (infinity if all did).
    """

    step_size: Float[Array, ""]
    neutral_step_size: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]


class _Bracket(NamedTuple):
    """An event has not happened at ``low`` and has happened at ``high``, with the rates there."""

    low: Array
    high: Array
    low_rate: Array
    high_rate: Array


@at("games.simulated_critical_step_size")
def simulated_critical_step_size(
    game: Game,
    rule: Rule,
    players: Players,
    *,
    max_step_size: float | Array,
    num_steps: int,
    equilibrium: Players | None = None,
    step_ratios: Ratios | None = None,
    num_rounds: int = 6,
    lanes: int = 32,
    tolerance: float = 0.05,
) -> SimulatedCriticalStep:
    r"""Step size at which trajectories stop converging, from them alone.

    .. math::

        [a_{k+1}, b_{k+1}] = \text{the first of } m \text{ equal parts of } [a_k, b_k]
        \text{ at whose right end the run fails}, \qquad [a_0, b_0] = [0, \eta_{\max}]

    Each round sweeps 2m step sizes at once: m to find where runs stop converging, m to find where
    they begin to diverge, by the verdicts of ``sweep``. Between the two, T steps cannot tell the
    rate from 1. Where that zone is narrower than a tenth of the step size it is taken for the
    limit of what T resolves, and the estimate is where the rate, interpolated over it, is 1;
    otherwise for an interval of neutral steps.

    The answer belongs to the start: far from the equilibrium a nonlinear game can leave earlier
    than its linearization says, or come back later.

    Args:
        game: The game.
        rule: The update rule.
        players: The start, a tuple of one pytree per player.
        max_step_size: η_max, where the search ends. A positive number.
        num_steps: T, the steps of a run at most, ≥ 16 and static.
        equilibrium: Where distances are measured from; see ``sweep``.
        step_ratios: Factors of the common step, one per player. Default: 1 for all.
        num_rounds: How often the brackets shrink by m, ≥ 1 and static.
        lanes: m, ≥ 2.
        tolerance: See ``sweep``.

    Returns:
        The estimates, and a bracket of the first. A window of divergence that is narrower than
        η_max/m can be missed. An undefined run neither converges nor stays bounded. From a start
        whose distance is rounding, which no run can lose, all are NaN where it is traced.

    Raises:
        TypeError: If a player is not real and floating-point, ``rule`` is no rule, or
            ``num_steps``, ``num_rounds`` or ``lanes`` is no Python integer.
        ValueError: If the players do not fit the game or the rule, a step size is negative or
            NaN, ``num_steps`` < 16, ``num_rounds`` < 1 or ``lanes`` < 2, or the start is known and
            at the equilibrium (without one: at rest) up to rounding.

    Cost: ``num_rounds`` rounds of 2·m·T steps at most.

    Examples:
        >>> game = games.general_sum(lambda x: 2 * x**2)
        >>> found = games.simulated_critical_step_size(
        ...     game, games.simultaneous(), (1.0,), max_step_size=3.0, num_steps=200)
        >>> round(float(found.step_size), 2)
        0.5

    References:
        :cite:t:`mescheder2018`
    """
    check_rule(rule)
    players = checked_players(game, players)
    limit = typed(checked_step_size("max_step_size", max_step_size), common_dtype(players))
    lanes = positive_integer("lanes", lanes, minimum=2)
    num_rounds = positive_integer("num_rounds", num_rounds)
    num_steps = positive_integer("num_steps", num_steps, minimum=NUM_PARTS)
    is_long = num_rounds * 2 * lanes * num_steps > LONG
    runs = runs_of(game, rule, players, step_ratios, equilibrium, tolerance, is_long=is_long)
    found = _search(runs, limit, num_steps, num_rounds, lanes)
    if not is_traced(found.low) and np.all(np.isnan(found.low)):
        raise value_error(
            "players",
            "must be away from the equilibrium" if equilibrium else "must not be at rest",
            "a start whose distance is rounding",
            "Push them off: every run that begins there seems to converge.",
        )
    return found


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _search(
    runs: Runs, limit: Array, num_steps: int, num_rounds: int, lanes: int
) -> SimulatedCriticalStep:
    parts = jnp.arange(1, lanes + 1, dtype=limit.dtype) / lanes

    def narrowed(_: Array, brackets: _Bracket) -> _Bracket:
        known = jnp.isfinite(brackets.high)
        width = jnp.where(known, brackets.high - brackets.low, 0)
        etas = jax.vmap(lambda low, width: low + width * parts)(brackets.low, width)
        found = swept(runs, etas, num_steps, max_period=1)
        stays, leaves = found.verdict
        failed = jnp.stack([stays != CONVERGES, (leaves == DIVERGES) | (leaves == UNDEFINED)])
        return jax.vmap(_first_part)(brackets, etas, found.rate, failed)

    zero = jnp.zeros((2,), limit.dtype)
    start = _Bracket(zero, jnp.full((2,), limit), zero, zero)
    brackets = jax.lax.fori_loop(0, num_rounds, narrowed, start)
    found = _estimate(*(_Bracket(*(x[i] for x in brackets)) for i in range(2)))
    away = _is_away(runs, limit)
    return jax.tree.map(lambda x: jnp.where(away, x, jnp.nan), found)


def _is_away(runs: Runs, eta: Array) -> Array:
    """Whether the start is farther from the equilibrium, or moves more, than rounding explains."""
    here, unravel = ravel_pytree(runs.players)
    noise = 8 * rounding(here.dtype) * jnp.abs(here)
    if runs.equilibrium is not None:
        distance = jnp.abs(here - ravel_pytree(runs.equilibrium)[0])
        return ~jnp.all(distance <= noise)  # NaN is away: the runs say what becomes of it
    steps = each_player(eta, runs.factors)

    def move(flat: Array) -> Array:
        start = runs.dynamics.begin(unravel(flat), steps)
        return ravel_pytree(runs.dynamics.step(start, steps).players)[0] - flat

    moved, pushed = jax.vmap(move)(jnp.stack([here, here + noise]))
    return ~(jnp.max(jnp.abs(moved)) <= jnp.max(jnp.abs(pushed - moved)))


def _first_part(bracket: _Bracket, etas: Array, rates: Array, failed: Array) -> _Bracket:
    """The part of the bracket that ends at the first failure; infinite where nothing fails."""
    k = jnp.argmax(failed)
    before = jnp.maximum(k - 1, 0)
    part = _Bracket(
        jnp.where(k > 0, etas[before], bracket.low),
        etas[k],
        jnp.where(k > 0, rates[before], bracket.low_rate),
        rates[k],
    )
    none = _Bracket(etas[-1], jnp.full_like(etas[-1], jnp.inf), rates[-1], rates[-1])
    # The right end of a later round has failed before.
    known = jnp.isfinite(bracket.high) & jnp.any(failed)
    return _Bracket(*(jnp.where(known, a, b) for a, b in zip(part, none, strict=True)))


def _estimate(lost: _Bracket, diverges: _Bracket) -> SimulatedCriticalStep:
    low, high = lost.low, diverges.high
    narrow = (high - low <= 0.1 * high) & (low > 0)
    below, above = jnp.log(lost.low_rate), jnp.log(diverges.high_rate)
    part = jnp.clip(below / (below - above), 0, 1)
    between = low + (high - low) * jnp.where(jnp.isnan(part), 0.5, part)
    step_size = jnp.where(narrow, between, jnp.where(low > 0, (low + lost.high) / 2, 0))
    neutral = jnp.where(narrow, between, (diverges.low + high) / 2)
    neutral = jnp.where(diverges.low > 0, neutral, 0)
    return SimulatedCriticalStep(
        step_size=jnp.where(jnp.isfinite(lost.high), step_size, jnp.inf),
        neutral_step_size=jnp.where(jnp.isfinite(high), neutral, jnp.inf),
        low=low,
        high=jnp.where(narrow, high, lost.high),
    )
