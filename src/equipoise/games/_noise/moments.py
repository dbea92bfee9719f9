r"""The first two moments of a step on a random batch, exactly.

With the batch's game q = q̄ + Δ the linearized step is Φ(q), a polynomial of degree one or two in
Δ for most rules. So E[Φ ⊗ Φ] is known from the moments of Δ up to the second or the fourth:

    Φ = A + L[Δ] + Q[Δ, Δ],    E[Φ ⊗ Φ] = Σ_k w_k F_k ⊗ F_k

with few matrices F_k. For any other rule they are the steps on all batches, where those are few.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from equipoise._check import value_error
from equipoise._jax.reads import degree
from equipoise._types import Array, Float, record, static_field
from equipoise.games._noise.batches import all_batches, batch_moments, num_batches
from equipoise.games._noise.local import LocalGame, example, models
from equipoise.games._rules.dynamics import Dynamics, held_rule, traced_dynamics
from equipoise.games._rules.game import Game, Players, checked_players, field
from equipoise.games._rules.numerics import dense_matrix
from equipoise.games._rules.rule import Rule, State, Steps, check_rule
from equipoise.games._sampled.drawn import Rows, rows_of
from equipoise.games._sampled.sampled import batches_of
from equipoise.games._spectrum.update_map import flat_step, layout, settled

_MOST_BATCHES = 1024
_LISTED = 3  # stands for a degree too high for moments


@record
class Noisy:
    """A rule on the batches of a sampled game near a point, as data.

    Attributes:
        rows: The game.
        dynamics: The rule, in games to second order.
        players: The point.
        degree: Of a step in the batch's game: one, two, or ``_LISTED``.
        plan: How many rows there are and are drawn, and whether with replacement.
    """

    rows: Rows
    dynamics: Dynamics
    players: Players
    degree: int = static_field()
    plan: tuple[int, int, bool] = static_field()

    def example(self) -> LocalGame:
        """A game of the models' shapes."""
        return example(self.rows, self.players)

    def playing(self, game: LocalGame) -> Dynamics:
        """The rule in this game."""
        return dataclasses.replace(self.dynamics, game=game)


@record
class Moments:
    """E[Φ ⊗ Φ] = Σ_k w_k F_k ⊗ F_k, on the state with a 1 appended, so that F holds the noise too.

    The last row of F_k is 0 but for its last entry: whether F_k counts in the mean step.
    """

    factors: Float[Array, "k n n"]
    weights: Float[Array, " k"]


def noisy(game: Game, rule: Rule, equilibrium: Players) -> Noisy:
    """The rule on the batches of a sampled game, checked, with the degree of its steps."""
    check_rule(rule)
    players = checked_players(game, equilibrium, "equilibrium")
    batches = batches_of(game)

    rows = rows_of(game, players)
    local = example(rows, players)
    dynamics = traced_dynamics(local, held_rule(game, rule, players), players)
    plan = batches.num_rows, batches.size, batches.replacement
    eta = tuple(np.ones((), local.gradients.dtype) for _ in players)

    def moved(local: LocalGame, rest: LocalGame, eta: Steps) -> tuple[Array, Array]:
        state, at = _rest(dataclasses.replace(dynamics, game=rest), players, eta)
        play = dataclasses.replace(dynamics, game=local)
        return jax.jvp(lambda flat: flat_step(play, eta, state, flat), (at,), (jnp.ones_like(at),))

    found = degree(moved, local, local, eta, most=2)
    count = num_batches(plan[0], plan[1], replacement=plan[2])
    if found is None and count > _MOST_BATCHES:
        raise value_error(
            "rule",
            f"must move by a polynomial of degree two at most in the batch's gradients, or the game"
            f" have {_MOST_BATCHES} different batches at most",
            f"{rule.name}, on {count:.3g} different batches of {plan[1]} of {plan[0]} rows",
            "batch_size=1 has as many batches as rows.",
        )
    few = found == 2 and count <= plan[0]
    return Noisy(rows, dynamics, players, _LISTED if found is None or few else max(found, 1), plan)


def _rest(dynamics: Dynamics, players: Players, eta: Steps) -> tuple[State, Array]:
    state = settled(dynamics, players, eta)
    return state, layout(state)[0](state)


def row_models(problem: Noisy, *, follow: bool) -> tuple[Array, Array]:
    """The quadratic models of the rows, and the largest coordinate of the mean vector field.

    ``follow`` takes them where the equilibrium goes with the game, to first order.
    """
    flat, unravel = ravel_pytree(problem.players)
    rows, local = models(problem.rows, problem.players), problem.example()

    def own_field(q: Array, z: Array) -> Array:
        return ravel_pytree(field(local.like(q).again(), unravel(z)))[0]

    gradient = own_field(jnp.mean(rows, axis=0), flat)
    residual = jax.lax.stop_gradient(gradient)
    if follow:
        mean = jax.lax.stop_gradient(jnp.mean(rows, axis=0))
        inverse = jnp.linalg.pinv(jax.jacfwd(lambda z: own_field(mean, z))(flat))
        rows = models(problem.rows, unravel(flat - inverse @ (gradient - residual)))
    return rows, jnp.max(jnp.abs(residual))


def linearized(problem: Noisy, q: Array, mean: Array, eta: Steps) -> tuple[Array, Array]:
    """Φ and u of a step s -> Φ s + u in the game of this model, from rest in the mean game."""
    local = problem.example()
    state, at = _rest(problem.playing(local.like(mean)), problem.players, eta)
    play = problem.playing(local.like(q))
    image, tangent = jax.linearize(lambda flat: flat_step(play, eta, state, flat), at)
    return dense_matrix(tangent, at.size, at.dtype), image - at


def moments(problem: Noisy, rows: Array, eta: Steps) -> Moments:
    """Of a step, from the quadratic models of the rows (n, ·)."""
    mean, deviations = centered(rows)

    def phi(q: Array) -> Array:
        matrix, move = linearized(problem, q, mean, eta)
        last = jnp.zeros_like(matrix[:1]), jnp.ones((1, 1), matrix.dtype)
        return jnp.block([[matrix, move[:, None]], [*last]])

    def along(of: Callable[[Array], Array], v: Array) -> Callable[[Array], Array]:
        return lambda q: jax.jvp(of, (q,), (v,))[1]

    def linear(v: Array) -> Array:
        return along(phi, v)(mean)

    def bilinear(u: Array, v: Array) -> Array:
        return along(along(phi, u), v)(mean) / 2

    n, size, replacement = problem.plan
    if problem.degree == _LISTED:
        mixtures, probabilities = all_batches(n, size, replacement=replacement)
        factors = jax.lax.map(phi, jnp.asarray(mixtures, rows.dtype) @ rows)
        return Moments(factors, jnp.asarray(probabilities, rows.dtype))
    c2, c3, c4, c22 = batch_moments(n, size, replacement=replacement)
    a = phi(mean)[None]
    if c2 == 0:
        return Moments(a, jnp.ones((1,), a.dtype))
    directions = root(deviations / n**0.5)
    if problem.degree == 1:
        linears = jax.vmap(linear)(directions)
        ones = jnp.ones((len(directions),), a.dtype)
        return Moments(jnp.concatenate([a, linears]), jnp.concatenate([ones[:1], c2 * ones]))
    linears, squares = jax.vmap(linear)(deviations), jax.vmap(bilinear)(deviations, deviations)
    square = jnp.mean(squares, axis=0, keepdims=True)
    i, j = jnp.triu_indices(len(directions))
    pairs = jax.vmap(bilinear)(directions[i], directions[j])
    # E Φ⊗Φ, completed to squares.
    factors = [a + c2 * square, square, linears + c3 / c2 * squares, squares, pairs]
    in_all = [1.0, c22 - c2**2, *(c2 / n,) * n, *((c4 - c3**2 / c2) / n,) * n]
    weights = jnp.concatenate(
        [jnp.asarray(in_all, a.dtype), jnp.where(i == j, 2 * c22, 4 * c22).astype(a.dtype)]
    )
    return Moments(jnp.concatenate(factors), weights)


def centered(rows: Array) -> tuple[Array, Array]:
    """The mean of the rows, and what each differs from it."""
    mean = jnp.mean(rows, axis=0)
    return mean, rows - mean[None]


def root(rows: Array) -> Array:
    """Few rows R with RᵀR as for the rows given, to first order in them."""
    if rows.shape[0] <= rows.shape[1]:
        return rows
    q, _ = jnp.linalg.qr(jax.lax.stop_gradient(rows))
    return q.T @ rows
