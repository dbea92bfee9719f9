"""The step size up to which the second moment of play on batches decays."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check import at
from equipoise._types import Array, Int, Scalar, aligned, field_by_field, result
from equipoise.games._noise.moments import Noisy, moments, noisy, row_models
from equipoise.games._noise.second import flat_directions, resolvent, settles, step_on
from equipoise.games._rules.dynamics import (
    Factors,
    checked_ratios,
    common_dtype,
    each_player,
    typed,
)
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import Ratios, Rule, checked_step_size

_GRID = 32
_MOST_STEPS = 160


@result
class MeanSquareCriticalStep:
    """The step size up to which play on batches settles in mean square.

    Attributes:
        step_size: The second moment of the distance decays on (0, ``step_size``), to zero or to its
            noise floor: 0 where it never does, infinity where it does up to ``max_step_size``.
        num_flat: Directions without curvature in any batch, in which play stays: they are left out.
        residual: The largest coordinate of the mean game's vector field. Large means that the
            players are in no equilibrium.
    """

    step_size: Scalar
    num_flat: Int[Array, ""]
    residual: Scalar

    def __str__(self) -> str:
        """The step size, and what it means."""
        if isinstance(self.step_size, jax.core.Tracer) or jnp.ndim(self.step_size):
            return field_by_field(self)
        size = float(self.step_size)
        says = f"The variance of play stays bounded below {size:.6g} and grows above."
        if size == 0:
            says = "The variance of play grows at every step size."
        elif size == float("inf"):
            says = "The variance of play stays bounded up to the largest step size."
        elif size != size:
            says = "Nothing can be said, because something on the way is no number."
        fields = ["step_size", "num_flat", "residual"]
        rows = [[f"  {name}", getattr(self, name)] for name in fields]
        return f"MeanSquareCriticalStep: {says}\n{aligned(rows)}"


@at("games.mean_square_critical_step_size")
def mean_square_critical_step_size(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    *,
    max_step_size: float | Array,
    step_ratios: Ratios | None = None,
) -> MeanSquareCriticalStep:
    r"""Largest step size at which the variance of play on batches stays bounded.

    .. math::

        \eta^* = \sup\bigl\{\eta : \rho\bigl(\mathbb E[\Phi_B \otimes \Phi_B]\bigr) < 1
        \text{ on } (0, \eta)\bigr\}

    on symmetric matrices, with Φ_B the Jacobian of a step on a batch B, on the full state. All
    gradients of a step see one batch, as ``simulate(..., key=)`` plays. The expectation is exact:
    Φ_B is a polynomial in the batch's gradients, of degree one for gradient descent, simultaneous
    and optimistic play and momentum, of degree two for extragradient and two players in turn, and
    follows from the moments of a batch up to the second or the fourth. For rules of any other kind
    all batches are listed, where there are 1024 or fewer.

    It is at most the ``critical_step_size`` of the full-data game. Without memory and with
    simultaneous moves all smaller steps are stable. For other rules the first loss is looked for on
    a geometric grid of 33 step sizes, and a window of instability between two of them can be
    missed.

    Args:
        game: A sampled game.
        rule: Φ, the update rule.
        equilibrium: z*, of the full-data game, a tuple of one pytree per player.
        max_step_size: Where the search ends. A positive number.
        step_ratios: Factors rᵢ of the common step, one per player. Default: 1 for all.

    Returns:
        The step size; see ``MeanSquareCriticalStep``. It differentiates once, in forward and
        reverse mode, by whatever payoffs, data, rule, ratios and the equilibrium depend on; the
        equilibrium moves with the game by itself. NaN where a model of a row is.

    Raises:
        TypeError: If the game is not sampled, a player is not real and floating-point, or ``rule``
            is no rule.
        ValueError: If the players do not fit the game or the rule, a step size or ratio is negative
            or NaN, or a step of the rule is no polynomial of degree two at most in the batch's
            gradients and there are more than 1024 different batches.

    Cost: the Hessian of every row once, n·N² numbers, and about 50 linear solves in the space of
    N × N matrices, N the size of the full state: dense up to N = 32, above by GMRES on products
    with K ≤ min(n, N²) matrices for rules of degree one, K² for degree two.

    Examples:
        Two rows with curvatures 1 and 3, one at a time: 2·E[h]/E[h²], less than 2/E[h] = 1.

        >>> game = games.sampled(lambda x, h: h * x**2 / 2, jnp.array([1.0, 3.0]), batch_size=1)
        >>> lost = games.mean_square_critical_step_size(
        ...     game, games.simultaneous(), (0.0,), max_step_size=4.0)
        >>> round(float(lost.step_size), 5)
        0.8

    References:
        :cite:t:`mulayoff2024`, theorem 1 for gradient descent
    """
    problem = noisy(game, rule, equilibrium)
    factors = checked_ratios(step_ratios, problem.players)
    limit = checked_step_size("max_step_size", max_step_size)
    limit = typed(limit, common_dtype(problem.players))
    found = _found(*jax.lax.stop_gradient((problem, factors, limit)))
    step_size = _with_derivative((problem, factors), found.step_size)
    return dataclasses.replace(found, step_size=step_size)


class _Search(NamedTuple):
    """The second moment decays at ``low`` and does not at ``high``, where that is finite.

    Values are proportional to 1/tr Σ_t E[Φᵗ Φᵗᵀ], which goes through zero at the critical step.
    """

    low: Array
    high: Array
    low_value: Array
    high_value: Array
    eta: Array
    decayed: Array
    rounds: Array
    done: Array


@jax.jit
def _found(problem: Noisy, factors: Factors, limit: Array) -> MeanSquareCriticalStep:
    rows, residual = row_models(problem, follow=False)
    flat = flat_directions(problem, rows)
    first = rounding(limit.dtype, 0.4) * jnp.minimum(flat.scale, limit)
    ratio = (limit / first) ** (1 / _GRID)

    def measure(eta: Array) -> tuple[Array, Array]:
        decays, total = settles(step_on(moments(problem, rows, each_player(eta, factors)), flat))
        return decays, 1 / (eta * jnp.sum(total * flat.kept))

    def advance(now: _Search) -> _Search:
        decays, value = measure(now.eta)
        # An end that stays a second time counts half, so that both ends close in (Illinois).
        again = jnp.where((now.rounds > 0) & (decays == now.decayed), 0.5, 1).astype(value.dtype)
        low, high = jnp.where(decays, now.eta, now.low), jnp.where(decays, now.high, now.eta)
        low_value = jnp.where(decays, value, now.low_value * again)
        high_value = jnp.where(decays, now.high_value * again, value)
        secant = low + (high - low) * low_value / (low_value - high_value)
        usable = (high_value < 0) & (secant > low) & (secant < high) & (now.rounds % 4 != 3)
        inside = jnp.where(usable, secant, (low + high) / 2)
        is_bracketed = jnp.isfinite(high)
        following = jnp.where(is_bracketed, inside, jnp.minimum(now.eta * ratio, limit))
        arrived = (high - low <= 4 * rounding(high.dtype) * high) | (low == 0)
        done = jnp.where(is_bracketed, arrived, now.eta >= limit)
        rounds = now.rounds + 1
        return _Search(low, high, low_value, high_value, following, decays, rounds, done)

    def unfinished(now: _Search) -> Array:
        return ~now.done & (now.rounds < _MOST_STEPS)

    zero, no = jnp.zeros_like(limit), jnp.zeros((), bool)
    rounds = jnp.zeros((), jnp.int32)
    start = _Search(zero, zero + jnp.inf, zero, zero, first, no, rounds, no)
    end = jax.lax.while_loop(unfinished, advance, start)
    found = jnp.where(jnp.isfinite(end.high), (end.low + end.high) / 2, jnp.inf)
    found = jnp.where(jnp.all(jnp.isfinite(rows)), jnp.where(end.low > 0, found, 0), jnp.nan)
    return MeanSquareCriticalStep(found, flat.num, residual)


@jax.custom_jvp
def _with_derivative(family: tuple[Noisy, Factors], eta: Array) -> Array:
    """The critical step η, with the derivative −∂r / ∂_η r of the spectral radius r = 1 there."""
    return eta


@_with_derivative.defjvp
def _with_derivative_jvp(
    primals: tuple[tuple[Noisy, Factors], Array], tangents: tuple[tuple[Noisy, Factors], Array]
) -> tuple[Array, Array]:
    family, eta = primals
    is_lost = (eta > 0) & jnp.isfinite(eta)
    at_loss = jnp.where(is_lost, eta, 0)
    leading = _leading(*jax.lax.stop_gradient((family, at_loss)))
    along = jax.jvp(lambda f: _radius(f, at_loss, leading), (family,), (tangents[0],))[1]
    one = (jnp.ones_like(eta),)
    speed = jax.jvp(lambda s: _radius(jax.lax.stop_gradient(family), s, leading), (at_loss,), one)[
        1
    ]
    speed = jax.lax.stop_gradient(speed)
    return eta, -jnp.where(is_lost, along / jnp.where(is_lost, speed, 1), 0)


@jax.jit
def _leading(family: tuple[Noisy, Factors], eta: Array) -> tuple[Array, Array]:
    """The right and left eigenvectors of M -> E[Φ M Φᵀ] at its critical step."""
    problem, factors = family
    rows, _ = row_models(problem, follow=False)
    flat = flat_directions(problem, rows)
    # So near to the loss the resolvent is its leading part.
    near = eta * (1 - rounding(eta.dtype, 0.75))
    step = step_on(moments(problem, rows, each_player(near, factors)), flat)
    eye = jnp.eye(len(step.mean), dtype=step.mean.dtype)
    found = [resolvent(one, eye) for one in (step, step.adjoint())]
    right, left = (m / jnp.linalg.norm(m) for m in found)
    return right, left


@jax.jit
def _radius(family: tuple[Noisy, Factors], eta: Array, leading: tuple[Array, Array]) -> Array:
    """The leading eigenvalue, to first order about what its eigenvectors belong to."""
    (problem, factors), (right, left) = family, leading
    rows, _ = row_models(problem, follow=True)
    flat = flat_directions(problem, rows)
    step = step_on(moments(problem, rows, each_player(eta, factors)), flat)
    return jnp.sum(left * step.second(right)) / jnp.sum(left * right)
