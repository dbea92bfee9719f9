from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._check_old import choice
from equipoise._types import Array, Bool, Float, Int, PRNGKeyArray, Shaped, aligned, result
from equipoise.games._arnoldi import dominant_eigenvalues
from equipoise.games._game import Game, Players, checked_players
from equipoise.games._newton import DENSE_LIMIT, dense_matrix
from equipoise.games._rule import Rule, StepSize, step_sizes
from equipoise.games._simulate import check_rule
from equipoise.games._spectrum import (
    cluster,
    differential,
    eigenvalue_gap,
    eigenvalue_noise,
    follow,
    leading,
    linearization,
    parallel,
    step_residual,
)

#: Verdict on play near an equilibrium: it returns.
CONVERGES = -1
#: Verdict on play near an equilibrium: to rounding, it neither returns nor leaves.
NEUTRAL = 0
#: Verdict on play near an equilibrium: it leaves.
DIVERGES = 1
VERDICTS = {CONVERGES: "converges", NEUTRAL: "neutral", DIVERGES: "diverges"}


@result
class Stability:
    """What the spectrum of the update map says of an equilibrium at one step size.

    Attributes:
        verdict: ``CONVERGES``, ``NEUTRAL`` or ``DIVERGES`` (−1, 0, 1).
        spectral_radius: ρ, the largest modulus of an eigenvalue.
        eigenvalue: The eigenvalue of that modulus; of a pair, the one above the real axis.
        tolerance: How far from 1 the modulus must be to be told from 1.
        defective: Whether eigenvalues on the unit circle form a Jordan block.
        residual: How far one step moves from the equilibrium, in the largest coordinate, per unit
            of step size. Large means that the players are in no equilibrium.
    """

    verdict: Int[Array, ""]
    spectral_radius: Float[Array, ""]
    eigenvalue: Shaped[Array, ""]
    tolerance: Float[Array, ""]
    defective: Bool[Array, ""]
    residual: Float[Array, ""]

    def __str__(self) -> str:
        """The verdict in words, then the numbers."""
        fields = ["spectral_radius", "eigenvalue", "tolerance", "defective", "residual"]
        rows = [[f"  {name}", getattr(self, name)] for name in fields]
        return f"Stability\n{aligned([['  verdict', verdict_name(self.verdict)], *rows])}"


def verdict_name(verdict: Array) -> str:
    """The verdict in words where it is known, otherwise its type."""
    if isinstance(verdict, jax.core.Tracer) or jnp.ndim(verdict):
        return str(verdict)
    return VERDICTS[int(verdict)]


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
    divergence.

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree a player.
        step_size: η, one number or one a player.
        tolerance: Distance of a modulus from 1 that counts as none. Default: what rounding makes of
            each eigenvalue, from its condition number, at most ε^0.4; matrix-free, the residual of
            the eigenvalue.
        method: ``"dense"``, ``"arnoldi"`` (matrix-free), or ``"auto"``: dense up to 512 unknowns.
        key: Of Arnoldi's random start vector. Default: a fixed one.

    Returns:
        The verdict and what it rests on. Matrix-free, Jordan blocks are not looked for and the
        numbers are constants of differentiation.

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
    where = "games.stability"
    check_rule(where, rule)
    players = checked_players(where, game, equilibrium, "equilibrium")
    eta = step_sizes(where, step_size, len(players))
    tangent, at, image = linearization(game, rule, players, eta)
    moved = step_residual(at, image, eta)
    if chosen_method(where, method, at.size) == "arnoldi":
        eigenvalue, slack = dominant(tangent, at, key)
        slack = slack if tolerance is None else jnp.full_like(slack, tolerance)
        size = jnp.abs(eigenvalue)
        verdict = jnp.where(jnp.abs(size - 1) <= slack, NEUTRAL, jnp.sign(size - 1))
        return Stability(
            verdict=verdict.astype(jnp.int32),
            spectral_radius=size,
            eigenvalue=eigenvalue,
            tolerance=slack,
            defective=jnp.zeros((), bool),
            residual=moved,
        )
    matrix = dense_matrix(tangent, at.size, at.dtype)
    values, vectors = jnp.linalg.eig(jax.lax.stop_gradient(matrix))
    size = jnp.abs(values)
    noise = eigenvalue_noise(jax.lax.stop_gradient(matrix), vectors)
    slack = noise if tolerance is None else jnp.full_like(noise, tolerance)
    on_circle = jnp.abs(size - 1) <= slack
    defective = parallel(vectors, on_circle)
    verdict = jnp.where(
        jnp.any(size > 1 + slack) | defective,
        DIVERGES,
        jnp.where(jnp.any(on_circle), NEUTRAL, CONVERGES),
    )
    top = cluster(values, vectors, eigenvalue_gap(matrix))
    eigenvalue = top.eigenvalue + differential(follow(top, matrix))
    return Stability(
        verdict=verdict.astype(jnp.int32),
        spectral_radius=jnp.abs(eigenvalue),
        eigenvalue=eigenvalue,
        tolerance=slack[leading(values)],
        defective=defective,
        residual=moved,
    )


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
        equilibrium: z*, a tuple of one pytree a player.
        step_size: η, one number or one a player.
        method: ``"dense"``, ``"arnoldi"`` (matrix-free), or ``"auto"``: dense up to 512 unknowns.
        key: Of Arnoldi's random start vector. Default: a fixed one.

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
    where = "games.spectral_radius"
    check_rule(where, rule)
    players = checked_players(where, game, equilibrium, "equilibrium")
    eta = step_sizes(where, step_size, len(players))
    tangent, at, _ = linearization(game, rule, players, eta)
    if chosen_method(where, method, at.size) == "arnoldi":
        return jnp.abs(dominant(tangent, at, key)[0])
    matrix = dense_matrix(tangent, at.size, at.dtype)
    values, vectors = jnp.linalg.eig(jax.lax.stop_gradient(matrix))
    top = cluster(values, vectors, eigenvalue_gap(matrix))
    return jnp.abs(top.eigenvalue + differential(follow(top, matrix)))


def chosen_method(where: str, method: str, size: int) -> str:
    """Dense or matrix-free, by size unless it is chosen."""
    method = choice(where, "method", method, ("auto", "dense", "arnoldi"))
    return ("dense" if size <= DENSE_LIMIT else "arnoldi") if method == "auto" else method


def dominant(
    tangent: Callable[[Array], Array], at: Array, key: PRNGKeyArray | None
) -> tuple[Array, Array]:
    """The leading eigenvalue by Arnoldi, and the residual that bounds its error if M is normal."""
    # The iteration has no derivative, so what the tangent map closes over must be explicit.
    hoisted, parameters = jax.closure_convert(tangent, at)
    parameters = jax.lax.stop_gradient(parameters)
    found = dominant_eigenvalues(
        lambda v: hoisted(v, *parameters),
        jax.lax.stop_gradient(at),
        jax.random.key(0) if key is None else key,
    )
    return found.values[0], found.residuals[0].astype(at.dtype)
