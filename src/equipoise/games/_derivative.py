"""The critical step size as a differentiable function of everything the game depends on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.games._flat import flat_map, settled
from equipoise.games._game import Game, Players
from equipoise.games._newton import dense_matrix
from equipoise.games._rule import Rule, Steps
from equipoise.games._spectrum import Cluster, differential, follow


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


def implicit(family: Callable[[Array], Array], eta: Array, critical: Cluster) -> Array:
    """η, with the derivative −∂log|λ| / ∂_η log|λ| by all that the family depends on."""

    def log_modulus(s: Array) -> Array:
        return jnp.log(jnp.abs(follow(critical, family(s))))

    value, speed = jax.jvp(log_modulus, (eta,), (jnp.ones_like(eta),))
    moved: Array = eta - differential(value) / jax.lax.stop_gradient(speed)
    return moved
