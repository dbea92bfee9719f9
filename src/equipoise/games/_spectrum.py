"""Eigenvalues of the linearized update at an equilibrium, and the verdict they give."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array, Bool, Float, Int, Shaped, aligned, result
from equipoise.games._flat import flat_map, settled
from equipoise.games._game import Game, Players, checked_players
from equipoise.games._newton import dense_matrix, rounding
from equipoise.games._rule import Rule, StepSize, step_sizes
from equipoise.games._simulate import check_rule

CONVERGES, NEUTRAL, DIVERGES = -1, 0, 1
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


def linearization(
    game: Game, rule: Rule, players: Players, step_size: StepSize
) -> tuple[Callable[[Array], Array], Array, Array]:
    """The tangent map of the full state, the flat state it is taken at, and where that goes."""
    state = settled(game, rule, players, step_size)
    flat = flat_map(game, rule, step_size, state)
    at = flat.ravel(state)
    image, tangent = jax.linearize(flat.step, at)
    return tangent, at, image


def update_matrix(game: Game, rule: Rule, players: Players, step_size: StepSize) -> Array:
    """The Jacobian of the update map on the full state, as a matrix."""
    tangent, at, _ = linearization(game, rule, players, step_size)
    return dense_matrix(tangent, at.size, at.dtype)


def rounding_level(matrix: Array) -> Array:
    """What rounding does to the modulus of a well-conditioned eigenvalue, with a margin."""
    n = matrix.shape[-1]
    return 8 * n * rounding(matrix.dtype) * jnp.maximum(1, jnp.linalg.norm(matrix))


def leading(values: Array) -> Array:
    """The index of the eigenvalue of largest modulus; of a pair, the one above the axis."""
    size = jnp.abs(values)
    near = size >= jnp.max(size) * (1 - 8 * rounding(size.dtype))
    return jnp.argmax(jnp.where(near, values.imag, -jnp.inf))


class Cluster(NamedTuple):
    """The eigenvalues that meet at the leading one, through their spectral projector."""

    eigenvalue: Array
    projector: Array
    simple: Array


def differential(x: Array) -> Array:
    """0, with the derivative of x."""
    return x - jax.lax.stop_gradient(x)


def eigenvalue_gap(matrix: Array) -> Array:
    """The distance below which eigenvalues are taken together."""
    return rounding(matrix.dtype, 0.4) * jnp.maximum(1, jnp.linalg.norm(matrix))


def cluster(values: Array, vectors: Array, near: Array) -> Cluster:
    """The leading eigenvalue with those that cannot be told from it, and whether it is alone.

    Alone means that it and its conjugate are the only ones on the circle of its radius, and simple.
    """
    near = jax.lax.stop_gradient(near)
    top = values[leading(values)]
    members = jnp.abs(values - top) <= near
    conjugates = jnp.abs(values - jnp.conj(top)) <= near
    on_circle = jnp.abs(jnp.abs(values) - jnp.abs(top)) <= near
    simple = (jnp.sum(members) == 1) & ~jnp.any(on_circle & ~members & ~conjugates)
    weights = members.astype(values.dtype)
    weights = weights / jnp.sum(weights)
    # P = V C V⁻¹, so that trace(P M) is the mean of the cluster and trace(P dM) its derivative.
    projector = jnp.linalg.solve(vectors.T, (vectors * weights[None, :]).T).T
    return Cluster(top, projector, simple)


def follow(critical: Cluster, matrix: Array) -> Array:
    """The cluster's mean eigenvalue as a differentiable function of the matrix."""
    mean: Array = jnp.sum(critical.projector * matrix.T.astype(critical.projector.dtype))
    return mean


def stability(
    game: Game,
    rule: Rule,
    equilibrium: Players,
    *,
    step_size: StepSize,
    tolerance: float | Array | None = None,
) -> Stability:
    r"""Does play return to an equilibrium after a small push, at one step size?

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
            each eigenvalue, from its condition number, at most ε^0.4.

    Returns:
        The verdict and what it rests on.

    Raises:
        TypeError: If a player is not real and floating-point, or ``rule`` is no rule.
        ValueError: If the players do not fit the game or the rule, or a step size is negative or
            NaN.

    Cost: the N×N matrix of the full state takes N tangents of one step, its eigenvectors O(N³).

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
        residual=step_residual(at, image, eta),
    )


def eigenvalue_noise(matrix: Array, vectors: Array) -> Array:
    """First-order bound of rounding in each eigenvalue: ε·‖M‖ times its condition number."""
    condition = jnp.linalg.norm(jnp.linalg.inv(vectors), axis=1)
    noise = rounding_level(matrix) * jnp.where(jnp.isnan(condition), jnp.inf, condition)
    return jnp.minimum(noise, rounding(noise.dtype, 0.4))


def parallel(vectors: Array, chosen: Array) -> Array:
    """Whether the chosen unit eigenvectors are linearly dependent, to the root of rounding."""
    kept = jnp.where(chosen, vectors, 0)
    gram = kept.conj().T @ kept + jnp.diag(jnp.where(chosen, 0, 1).astype(vectors.dtype))
    smallest: Array = jnp.linalg.eigvalsh(gram)[0]
    return smallest < 100 * rounding(gram.dtype)


def step_residual(at: Array, image: Array, eta: tuple[Array, ...]) -> Array:
    """The largest move of a coordinate in one step, per unit of the largest step size."""
    largest = jnp.max(jnp.stack([e.astype(at.dtype) for e in eta]))
    move = jnp.max(jnp.abs(image - at))
    return jnp.where(largest > 0, move / jnp.where(largest > 0, largest, 1), move)


def spectral_radius(
    game: Game, rule: Rule, equilibrium: Players, *, step_size: StepSize
) -> Float[Array, ""]:
    r"""Largest modulus of an eigenvalue of the update map: the asymptotic factor per step.

    .. math::

        \rho(\eta) = \max_i |\lambda_i|, \qquad \lambda_i \text{ the eigenvalues of }
        \frac{\partial \Phi_\eta}{\partial s}(s^*)

    Args:
        game: The game.
        rule: Φ, the update rule.
        equilibrium: z*, a tuple of one pytree a player.
        step_size: η, one number or one a player.

    Returns:
        ρ, a scalar. Its derivative is that of the leading eigenvalue, or of the mean of those that
        meet there.

    Raises:
        TypeError: If a player is not real and floating-point, or ``rule`` is no rule.
        ValueError: If the players do not fit the game or the rule, or a step size is negative or
            NaN.

    Cost: the N×N matrix of the full state takes N tangents of one step, its eigenvalues O(N³).

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
    matrix = update_matrix(game, rule, players, eta)
    values, vectors = jnp.linalg.eig(jax.lax.stop_gradient(matrix))
    top = cluster(values, vectors, eigenvalue_gap(matrix))
    return jnp.abs(top.eigenvalue + differential(follow(top, matrix)))
