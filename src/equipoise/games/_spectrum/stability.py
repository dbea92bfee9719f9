"""Whether play returns to an equilibrium after a small push."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._check import at, choice
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, Scalar, Shaped, aligned, result
from equipoise.games._rules.dynamics import Dynamics, held_dynamics, typed_steps
from equipoise.games._rules.game import Game, Players, checked_players
from equipoise.games._rules.numerics import DENSE_LIMIT, dense_matrix
from equipoise.games._rules.rule import Rule, Steps, StepSize, check_rule
from equipoise.games._rules.verdict import CONVERGES, DIVERGES, NEUTRAL, UNDEFINED, Verdict
from equipoise.games._spectrum.arnoldi import arnoldi
from equipoise.games._spectrum.spectrum import (
    eigenvalue_noise,
    leading,
    leading_eigenvalue,
    linearization,
    not_at_rest,
    parallel,
    step_residual,
)

_METHODS = ("auto", "dense", "arnoldi")


class _Point(NamedTuple):
    """Where and at which step sizes an update is linearized."""

    dynamics: Dynamics
    players: Players
    eta: Steps


@result
class Stability:
    """What the spectrum of the update map says of an equilibrium at one step size.

    Attributes:
        verdict: A ``Verdict``: ``CONVERGES``, ``NEUTRAL``, ``DIVERGES`` or ``UNDEFINED``, where the
            update or its spectrum at the equilibrium is no number or infinite.
        spectral_radius: ρ, the largest modulus of an eigenvalue.
        eigenvalue: The eigenvalue of that modulus; of a pair, the one above the real axis.
        tolerance: How far from 1 the modulus must be to be told from 1.
        defective: Whether eigenvalues on the unit circle form a Jordan block.
        residual: The largest move of a player's coordinate in one step, per unit of step size: of
            rules that go down gradients the gradient. Large means that the players are in no
            equilibrium; NaN that a payoff is no finite number.
        converged: Whether the eigenvalue was found; only Arnoldi's iteration can fail to.
    """

    verdict: Int[Array, ""]
    spectral_radius: Scalar
    eigenvalue: Shaped[Array, ""]
    tolerance: Scalar
    defective: Bool[Array, ""]
    residual: Scalar
    converged: Bool[Array, ""]

    def __str__(self) -> str:
        """The verdict in words, then the numbers."""
        fields = ["spectral_radius", "eigenvalue", "tolerance", "defective", "residual"]
        rows = [[f"  {name}", getattr(self, name)] for name in fields]
        text = f"Stability\n{aligned([['  verdict', Verdict.said(self.verdict)], *rows])}"
        if isinstance(self.verdict, jax.core.Tracer) or jnp.ndim(self.verdict):
            return text
        if not self.converged:
            text += "\n  Arnoldi has not converged: the spectral radius may be larger."
        return text + not_at_rest(self.residual)


@at("games.stability")
def stability(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    *,
    step_size: StepSize,
    tolerance: float | Array | None = None,
    method: str = "auto",
    key: PRNGKeyArray | None = None,
) -> Stability:
    r"""Whether play returns to an equilibrium after a small push.

    .. math::

        \rho = \max_i |\lambda_i|, \qquad \lambda_i \text{ the eigenvalues of }
        \frac{\partial \Phi_\eta}{\partial s}(s^*)

    on the full state s, memory included. It converges where ρ < 1, diverges where ρ > 1, and is
    neutral (bounded, without approach) where the eigenvalues on the unit circle have as many
    eigenvectors as they should. A Jordan block there grows like a power of t and counts as
    divergence. Where the step or an eigenvalue is not finite, the verdict is ``UNDEFINED``.

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree per player.
        step_size: η, one number or one per player.
        tolerance: Distance of a modulus from 1 that counts as none. Default: what rounding makes of
            each eigenvalue, from its condition number, at most ε^0.4; matrix-free, the residual r
            of the eigenvalue, rounding included, times its condition number, at most r^0.4.
        method: ``"dense"``, ``"arnoldi"`` (matrix-free), or ``"auto"``: dense up to 512 unknowns.
        key: Randomness of Arnoldi's start vector. Default: a fixed one.

    Returns:
        The verdict and what it rests on. Matrix-free, Jordan blocks are not looked for, the numbers
        are constants of differentiation, and an iteration that has not converged says neutral
        rather than converging. On an edge of a projection, derivatives are those of its inner side.

    Raises:
        TypeError: If a player is not real and floating-point, or ``rule`` is no rule.
        ValueError: If the players do not fit the game or the rule, a step size is negative or NaN,
            or ``method`` is none of the three.

    Cost: dense, N tangents of one step for the matrix of the full state, and O(N³); matrix-free,
    about 100·N numbers and some hundreds of tangents.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> result = games.stability(game, games.extragradient(), (0.0, 0.0), step_size=0.5)
        >>> int(result.verdict) == games.CONVERGES, round(float(result.spectral_radius), 4)
        (True, 0.9014)

    References:
        :cite:t:`mescheder2017`
    """
    method = choice("method", method, _METHODS)
    return _judged(_point(game, rule, equilibrium, step_size), tolerance, key, method)


@functools.partial(jax.jit, static_argnames="method")
def _judged(
    point: _Point, tolerance: float | Array | None, key: PRNGKeyArray | None, method: str
) -> Stability:
    tangent, here, image = linearization(*point)
    moved = step_residual(point.dynamics, point.players, here, image, point.eta)
    if _is_matrix_free(method, here.size):
        eigenvalue, slack, converged = _dominant(point, key)
        slack = slack if tolerance is None else jnp.full_like(slack, tolerance)
        size = jnp.abs(eigenvalue)
        verdict = jnp.where(
            jnp.abs(size - 1) <= slack, NEUTRAL, jnp.where(size > 1, DIVERGES, CONVERGES)
        )
        # A larger eigenvalue may be yet to come.
        verdict = jnp.where(~converged & (verdict == CONVERGES), NEUTRAL, verdict)
        known = jnp.isfinite(size) & ~jnp.isnan(slack)
        defective = jnp.zeros((), bool)
    else:
        converged = jnp.ones((), bool)
        matrix = dense_matrix(tangent, here.size, here.dtype)
        values, vectors = jnp.linalg.eig(jax.lax.stop_gradient(matrix))
        sizes = jnp.abs(values)
        noise = eigenvalue_noise(jax.lax.stop_gradient(matrix), vectors)
        slacks = noise if tolerance is None else jnp.full_like(noise, tolerance)
        on_circle = jnp.abs(sizes - 1) <= slacks
        defective = parallel(vectors, on_circle)
        verdict = jnp.where(
            jnp.any(sizes > 1 + slacks) | defective,
            DIVERGES,
            jnp.where(jnp.any(on_circle), NEUTRAL, CONVERGES),
        )
        known = jnp.all(jnp.isfinite(sizes)) & ~jnp.any(jnp.isnan(slacks))
        eigenvalue = leading_eigenvalue(matrix, values, vectors)
        size, slack = jnp.abs(eigenvalue), slacks[leading(values)]
    known = known & ~jnp.isnan(moved) & jnp.all(jnp.isfinite(image))
    verdict = jnp.where(known, verdict, UNDEFINED).astype(jnp.int32)
    return Stability(verdict, size, eigenvalue, slack, defective, moved, converged)


@at("games.spectral_radius")
def spectral_radius(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    *,
    step_size: StepSize,
    method: str = "auto",
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    r"""Largest modulus of the update map's eigenvalues, the factor per step.

    .. math::

        \rho(\eta) = \max_i |\lambda_i|, \qquad \lambda_i \text{ the eigenvalues of }
        \frac{\partial \Phi_\eta}{\partial s}(s^*)

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree per player.
        step_size: η, one number or one per player.
        method: ``"dense"``, ``"arnoldi"`` (matrix-free), or ``"auto"``: dense up to 512 unknowns.
        key: Randomness of Arnoldi's start vector. Default: a fixed one.

    Returns:
        ρ, a scalar. Its derivative is that of the leading eigenvalue, or of the mean of those that
        meet there; matrix-free, ρ is a constant of differentiation.

    Raises:
        TypeError: If a player is not real and floating-point, or ``rule`` is no rule.
        ValueError: If the players do not fit the game or the rule, a step size is negative or NaN,
            or ``method`` is none of the three.

    Cost: dense, N tangents of one step for the matrix of the full state, and O(N³); matrix-free,
    about 100·N numbers and some hundreds of tangents.

    Examples:
        >>> game = games.zero_sum(lambda p, q: p * q)
        >>> float(games.spectral_radius(game, games.simultaneous(), (0.0, 0.0), step_size=0.75))
        1.25

    References:
        :cite:t:`mescheder2017`
    """
    method = choice("method", method, _METHODS)
    return _radius(_point(game, rule, equilibrium, step_size), key, method)


@functools.partial(jax.jit, static_argnames="method")
def _radius(point: _Point, key: PRNGKeyArray | None, method: str) -> Array:
    return _judged(point, None, key, method).spectral_radius  # compilers drop the rest


def _point(game: Game, rule: Rule, equilibrium: Players, step_size: StepSize) -> _Point:
    check_rule(rule)
    players = checked_players(game, equilibrium, "equilibrium")
    return _Point(held_dynamics(game, rule, players), players, typed_steps(step_size, players))


def _is_matrix_free(method: str, size: int) -> bool:
    return method == "arnoldi" or (method == "auto" and size > DENSE_LIMIT)


def _dominant(point: _Point, key: PRNGKeyArray | None) -> tuple[Array, Array, Array]:
    """The leading eigenvalue by Arnoldi, how far it can be off, and whether it was found."""
    tangent, here, _ = linearization(*jax.lax.stop_gradient(point))  # the iteration has none
    key = jax.random.key(0) if key is None else key
    found = arnoldi(tangent, here, key, num=min(2, here.size))
    residual, condition = found.residuals[0], found.conditions[0]
    # A Jordan block turns a residual into its root.
    slack = jnp.minimum(residual * condition, residual**0.4)
    return found.values[0], slack.astype(here.dtype), found.converged[0]
