"""Where play on batches settles: the stationary second moment, and what it costs."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from equipoise._check import at
from equipoise._types import Array, Bool, Float, Int, Scalar, aligned, field_by_field, result
from equipoise.games._noise.moments import Noisy, moments, noisy, row_models
from equipoise.games._noise.second import flat_directions, resolvent, settles, step_on
from equipoise.games._rules.dynamics import typed_steps
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.numerics import rounding
from equipoise.games._rules.rule import Rule, Steps, StepSize
from equipoise.games._rules.verdict import CONVERGES, DIVERGES, UNDEFINED, Verdict


@result
class NoiseFloor:
    """How far from an equilibrium the noise of batches holds play, in the long run.

    Attributes:
        excess_loss: How much each player's expected loss lies above that at the equilibrium, one
            entry per player, a scalar for one player. Infinite where the variance grows.
        distance: √(E‖z − z*‖²), the root mean square distance of the players from z*.
        covariance: Of the players' coordinates, in the order of ``ravel_pytree``.
        shift: E[z] − z*, in that order: not zero where a step uses a batch twice.
        verdict: A ``Verdict``: ``CONVERGES`` where the numbers are those that play settles to,
            ``DIVERGES`` where the variance grows and they are infinite, ``UNDEFINED`` where a
            model of a row is no number and they are NaN.
        num_flat: Directions without curvature in any batch; they are left out of all numbers.
        wanders: Whether batches push along a flat direction. Play then walks there at random,
            without end and, to second order, without loss.
        residual: The largest coordinate of the mean game's vector field.
    """

    excess_loss: Float[Array, "*players"]
    distance: Scalar
    covariance: Float[Array, "n n"]
    shift: Float[Array, " n"]
    verdict: Int[Array, ""]
    num_flat: Int[Array, ""]
    wanders: Bool[Array, ""]
    residual: Scalar

    def __str__(self) -> str:
        """The excess loss, and what the noise does, in words."""
        if isinstance(self.verdict, jax.core.Tracer) or jnp.ndim(self.verdict):
            return field_by_field(self)
        says = {
            CONVERGES: "Play settles to a distance that the noise keeps up.",
            DIVERGES: "The variance of play grows without bound at this step size.",
        }.get(Verdict(int(self.verdict)), UNDEFINED.sentence)
        if self.wanders:
            says += " It walks at random along directions without curvature."
        fields = ["excess_loss", "distance", "covariance", "num_flat", "residual"]
        rows = [[f"  {name}", getattr(self, name)] for name in fields]
        return f"NoiseFloor: {says}\n{aligned(rows)}"


@at("games.noise_floor")
def noise_floor(game: Game, rule: Rule, equilibrium: Players, *, step_size: StepSize) -> NoiseFloor:
    r"""Where play on batches settles: stationary covariance and expected excess loss.

    .. math::

        s_{t+1} = \Phi_B s_t + u_B, \qquad
        C = \mathbb E[\Phi_B C \Phi_B^\top] + \Sigma, \qquad
        \mathbb E f(z) - f(z^*) = \tfrac12 \operatorname{tr}(H\,\mathbb E[\delta \delta^\top])

    with δ = z − z*, u_B what a batch's gradients at z* make of a step there, and Σ the covariance
    that this adds: η² times that of the gradients for gradient descent. All expectations are exact
    for payoffs of second order, on the full state, products of u and Φ included; a rule that uses a
    batch twice a step also shifts the mean. The noise is that which ``simulate(..., key=)`` plays.

    Args:
        game: A sampled game.
        rule: The update rule.
        equilibrium: z*, of the full-data game, a tuple of one pytree per player.
        step_size: η, one number or one per player.

    Returns:
        The floor; see ``NoiseFloor``. From ``mean_square_critical_step_size`` on there is none:
        the verdict is ``DIVERGES`` and its numbers are infinite, never NaN. It differentiates by
        whatever payoffs, data, rule and equilibrium depend on, below that step.

    Raises:
        TypeError: If the game is not sampled, a player is not real and floating-point, or ``rule``
            is no rule.
        ValueError: If the players do not fit the game or the rule, a step size is negative or NaN,
            or a step of the rule is no polynomial of degree two at most in the batch's gradients
            and there are more than 1024 different batches.

    Cost: the Hessian of every row once, and two linear solves in the space of N × N matrices; see
    ``mean_square_critical_step_size``.

    Examples:
        The mean of a batch of one from {1, 3}, by steps η: variance η/(2 − η).

        >>> game = games.sampled(lambda x, d: (x - d) ** 2 / 2, jnp.array([1.0, 3.0]), batch_size=1)
        >>> floor = games.noise_floor(game, games.simultaneous(), (2.0,), step_size=0.5)
        >>> round(float(floor.covariance[0, 0]), 5), round(float(floor.excess_loss), 5)
        (0.33333, 0.16667)

    References:
        :cite:t:`mandt2017`, section 3; :cite:t:`mulayoff2024`
    """
    problem = noisy(game, rule, equilibrium)
    return _floor(problem, typed_steps(step_size, problem.players))


@jax.jit
def _floor(problem: Noisy, eta: Steps) -> NoiseFloor:
    rows, residual = row_models(problem, follow=True)
    flat = flat_directions(problem, rows)
    all_moments = moments(problem, rows, eta)
    step = step_on(all_moments, flat)
    decays, _ = settles(jax.lax.stop_gradient(step))
    n, n_z = len(step.mean), ravel_pytree(problem.players)[0].size

    def where_it_settles(number: Array | int, otherwise: Array | float) -> Array:
        return jnp.where(decays, number, otherwise)

    # A step that does not settle is exchanged for one that does, for the sake of derivatives.
    step = step._replace(
        factors=where_it_settles(step.factors, jnp.zeros_like(step.factors)),
        mean=where_it_settles(step.mean, jnp.zeros_like(step.mean)),
    )
    shift = jnp.linalg.solve(jnp.eye(n, dtype=rows.dtype) - step.mean, step.mean_move)
    pushed = jnp.einsum("kab,b->ka", step.factors, shift)
    # Σ_k w (F m uᵀ + u mᵀ Fᵀ + u uᵀ), the second moment of what a batch adds.
    both = pushed + step.moves
    added = jnp.einsum("k,ka,kb->ab", step.weights, both, both)
    added -= jnp.einsum("k,ka,kb->ab", step.weights, pushed, pushed)
    second = resolvent(step, added)
    covariance = second - jnp.outer(shift, shift)
    mean_game = problem.example().like(jnp.mean(rows, axis=0))
    excess = jnp.einsum("lab,ab->l", mean_game.hessians, second[:n_z, :n_z]) / 2
    excess += mean_game.gradients @ shift[:n_z]
    if problem.rows.is_zero_sum:
        excess = jnp.concatenate([excess, -excess])
    if len(excess) == 1:
        excess = excess[0]
    known = jnp.all(jnp.isfinite(rows))

    def reported(number: Array) -> Array:
        return jnp.where(known, where_it_settles(number, jnp.inf), jnp.nan)

    verdict = jnp.where(known, where_it_settles(CONVERGES, DIVERGES), UNDEFINED)
    moves = all_moments.factors[:, :-1, -1]
    beside = jnp.max(jnp.abs(moves - step.moves))
    size = jnp.max(jnp.abs(moves)) + jnp.max(jnp.abs(ravel_pytree(problem.players)[0]))
    return NoiseFloor(
        excess_loss=reported(excess),
        distance=jnp.sqrt(reported(jnp.trace(second[:n_z, :n_z]))),
        covariance=reported(covariance[:n_z, :n_z]),
        shift=reported(shift[:n_z]),
        verdict=verdict.astype(jnp.int32),
        num_flat=flat.num,
        wanders=beside > rounding(rows.dtype, 0.6) * size,
        residual=residual,
    )
