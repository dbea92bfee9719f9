"""Eigenvalues of the linearized update at an equilibrium, and what rounding does to them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.games._rules.game import Game, Players
from equipoise.games._rules.numerics import dense_matrix, rounding
from equipoise.games._rules.rule import Rule, Steps, StepSize
from equipoise.games._spectrum.update_map import flat_map, settled


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


def fixed_matrix(
    game: Game, rule: Rule, players: Players, steps: Callable[[Array], Steps], eta: Array
) -> Array:
    """M(η) at the fixed point, which follows the game and η to first order."""
    state = settled(game, rule, players, steps(eta))
    flat = flat_map(game, rule, steps(eta), state)
    at = flat.ravel(state)
    image, tangent = jax.linearize(flat.step, at)
    slip = jnp.eye(at.size, dtype=at.dtype) - dense_matrix(tangent, at.size, at.dtype)
    at = at + jax.lax.stop_gradient(jnp.linalg.pinv(jax.lax.stop_gradient(slip))) @ (image - at)
    _, tangent = jax.linearize(flat.step, at)
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
    return jnp.sum(critical.projector * matrix.T.astype(critical.projector.dtype))


def eigenvalue_noise(matrix: Array, vectors: Array) -> Array:
    """First-order bound of rounding in each eigenvalue: ε·‖M‖ times its condition number."""
    condition = jnp.linalg.norm(jnp.linalg.inv(vectors), axis=1)
    noise = rounding_level(matrix) * jnp.where(jnp.isnan(condition), jnp.inf, condition)
    return jnp.minimum(noise, rounding(noise.dtype, 0.4))


def parallel(vectors: Array, chosen: Array) -> Array:
    """Whether the chosen unit eigenvectors are linearly dependent, to the root of rounding."""
    kept = jnp.where(chosen, vectors, 0)
    gram = kept.conj().T @ kept + jnp.diag(jnp.where(chosen, 0, 1).astype(vectors.dtype))
    return jnp.linalg.eigvalsh(gram)[0] < 100 * rounding(gram.dtype)


def step_residual(at: Array, image: Array, eta: tuple[Array, ...]) -> Array:
    """The largest move of a coordinate in one step, per unit of the largest step size."""
    largest = jnp.max(jnp.stack([e.astype(at.dtype) for e in eta]))
    move = jnp.max(jnp.abs(image - at))
    return jnp.where(largest > 0, move / jnp.where(largest > 0, largest, 1), move)
