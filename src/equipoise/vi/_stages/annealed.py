"""Draws that are annealed from q to p: particles that Hamiltonian moves spread and weights choose.

Sequential Monte Carlo by islands that begin at normals of different widths and never see each
other's particles. What chains say of themselves is not asked: errors are differences of islands.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from equipoise._jax.traced import Traced
from equipoise._types import Array, PRNGKeyArray, Scalar
from equipoise.vi._bounds.density import flat_log_density
from equipoise.vi._families.layout import Layout
from equipoise.vi._weights.psis import smooth

ISLANDS, SNAPSHOTS = 16, 8
_KEPT = 0.6  # share of effective particles that a change of temperature leaves
_MOVES, _LEAPS = 3, 8  # of a round, and steps of a move
GRADIENTS = _MOVES * _LEAPS  # of a particle in a round
_SHORTEST, _LONGEST = -2.5, 0.5  # log lengths of steps, around the one that adapts
_WANTED, _RATE = 0.75, 0.7  # share of moves that are accepted, and how fast steps adapt


class Islands(NamedTuple):
    """Where particles are, in coordinates where q is standard, and what has been learned.

    Attributes:
        points: Shape ``(islands, particles, d)``.
        beta: Inverse temperature.
        log_evidence: Of each island.
        log_step: Log length of a step.
        khat: Largest k̂ of the weights of a change of temperature.
    """

    points: Array
    beta: Scalar
    log_evidence: Array
    log_step: Scalar
    khat: Scalar


class _Places(NamedTuple):
    """Points with log p and its gradient."""

    point: Array
    log_p: Array
    slope: Array


@functools.partial(jax.jit, static_argnames="positions")
def anneal(
    density: Traced,
    normal: tuple[Array, Array],
    widths: Array,
    islands: Islands,
    key: PRNGKeyArray,
    most_rounds: Array,
    positions: Layout,
) -> tuple[Islands, Array, Array, Array]:
    """The islands once they are at temperature 1, and snapshots of their particles there.

    And how many snapshots these are, after how many rounds.
    """
    mean, factor = normal
    over = density.over
    d, dtype = len(mean), mean.dtype
    flat = flat_log_density(density.prepared(), positions)
    log_volume = jnp.sum(jnp.log(jnp.diagonal(factor)))

    def look(u: Array) -> _Places:
        value, slope = jax.value_and_grad(lambda u: flat(mean + factor @ u) + log_volume)(u)
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
        return _Places(u, jnp.where(sound, value, -jnp.inf), jnp.where(sound, slope, 0))

    def log_q(u: Array, width: Scalar) -> Scalar:
        return -0.5 * jnp.sum((u / width) ** 2) - d * jnp.log(width * (2 * math.pi) ** 0.5)

    def move(
        at: _Places, key: PRNGKeyArray, width: Scalar, beta: Scalar, log_step: Scalar, root: Array
    ) -> tuple[_Places, Scalar]:
        """One Hamiltonian move, with the covariance of the particles as its metric."""
        key_v, key_h, key_u = jax.random.split(key, 3)
        h = jnp.exp(log_step + jax.random.uniform(key_h, (), dtype, _SHORTEST, _LONGEST))

        def energy(place: _Places, v: Array) -> Scalar:
            q = (1 - beta) * log_q(place.point, width)
            return beta * place.log_p + q - 0.5 * jnp.sum(v**2)

        def push(place: _Places, v: Array) -> Array:
            slope = beta * place.slope - (1 - beta) * place.point / width**2
            return v + 0.5 * h * (root.T @ slope)

        def leap(_: Array, now: tuple[_Places, Array]) -> tuple[_Places, Array]:
            place, v = now
            v = push(place, v)
            there = look(place.point + h * (root @ v))
            return there, push(there, v)

        velocity = jax.random.normal(key_v, (d,), dtype)
        there, v = jax.lax.fori_loop(0, _LEAPS, leap, (at, velocity))
        ratio = energy(there, v) - energy(at, velocity)
        accept = jnp.minimum(jnp.exp(jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)), 1)
        taken = jax.random.uniform(key_u, (), dtype) < accept
        return jax.tree.map(lambda new, old: jnp.where(taken, new, old), there, at), accept

    def each(
        at: _Places, keys: PRNGKeyArray, beta: Scalar, log_step: Scalar, root: Array
    ) -> tuple[_Places, Array]:
        def of_island(at: _Places, keys: PRNGKeyArray, width: Scalar) -> tuple[_Places, Array]:
            moved = functools.partial(move, width=width, beta=beta, log_step=log_step, root=root)
            return over(moved)(at, keys)

        return over(of_island)(at, keys, widths)

    def spread(
        at: _Places, key: PRNGKeyArray, beta: Scalar, log_step: Scalar
    ) -> tuple[_Places, Scalar]:
        """Some moves of every particle, and a step that suits them."""
        root = jnp.linalg.cholesky(jnp.atleast_2d(jnp.cov(at.point.reshape(-1, d), rowvar=False)))
        root = jnp.where(jnp.all(jnp.isfinite(root)), root, jnp.eye(d, dtype=dtype))

        def again(i: Array, now: tuple[_Places, Scalar]) -> tuple[_Places, Scalar]:
            at, log_step = now
            keys = jax.random.split(jax.random.fold_in(key, i), at.log_p.shape)
            at, accept = each(at, keys, beta, log_step, root)
            return at, log_step + _RATE * (jnp.mean(accept) - _WANTED)

        return jax.lax.fori_loop(0, _MOVES, again, (at, log_step))

    def cooled(at: _Places, now: Islands, key: PRNGKeyArray) -> tuple[_Places, Islands]:
        """Particles chosen by their weights at the next temperature."""
        q = jax.vmap(jax.vmap(log_q, (0, None)))(at.point, widths)
        ratios = jnp.where(jnp.isfinite(at.log_p), at.log_p - q, -jnp.inf)
        beta = _next(now.beta, ratios)
        log_w = jnp.where(beta > now.beta, (beta - now.beta) * ratios, jnp.zeros_like(ratios))
        gained = jax.nn.logsumexp(log_w, axis=1) - math.log(log_w.shape[1])
        chosen = jax.vmap(_systematic)(jax.random.split(key, len(log_w)), log_w)
        khat = smooth((log_w - gained[:, None]).ravel(), jnp.asarray(1e-6, dtype)).khat
        at = jax.tree.map(lambda x: jax.vmap(lambda rows, i: rows[i])(x, chosen), at)
        return at, now._replace(
            beta=beta,
            log_evidence=now.log_evidence + gained,
            khat=jnp.maximum(now.khat, khat),
        )

    def busy(carry: tuple[_Places, Islands, Array, Array, Array]) -> Array:
        _, _, _, taken, rounds = carry
        return (taken < SNAPSHOTS) & (rounds < most_rounds)

    def round_of(
        carry: tuple[_Places, Islands, Array, Array, Array],
    ) -> tuple[_Places, Islands, Array, Array, Array]:
        at, now, shots, taken, rounds = carry
        key_w, key_m = jax.random.split(jax.random.fold_in(key, rounds))
        cold = now.beta >= 1
        at, now = jax.lax.cond(
            cold, lambda at, now: (at, now), functools.partial(cooled, key=key_w), at, now
        )
        at, log_step = spread(at, key_m, now.beta, now.log_step)
        shots = jnp.where(cold, shots.at[taken].set(at.point), shots)
        return (
            at,
            now._replace(log_step=log_step),
            shots,
            taken + cold.astype(jnp.int32),
            rounds + 1,
        )

    first = over(over(look))(islands.points)
    shots = jnp.zeros((SNAPSHOTS, *islands.points.shape), dtype)
    at, islands, shots, taken, rounds = jax.lax.while_loop(
        busy, round_of, (first, islands, shots, jnp.int32(0), jnp.int32(0))
    )
    return islands._replace(points=at.point), shots, taken, rounds


def _next(beta: Scalar, ratios: Array) -> Scalar:
    """The next inverse temperature: the largest whose weights leave enough particles."""

    def left(step: Scalar) -> Scalar:
        log_w = step * ratios
        total = 2 * jax.nn.logsumexp(log_w, axis=1) - jax.nn.logsumexp(2 * log_w, axis=1)
        return jnp.mean(jnp.exp(total)) / ratios.shape[1]

    def halve(_: Array, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = left(middle) >= _KEPT
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    whole = 1 - beta
    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(beta), whole))
    return jnp.where(left(whole) >= _KEPT, jnp.ones_like(beta), beta + low)


def _systematic(key: PRNGKeyArray, log_w: Array) -> Array:
    """As many indices as there are weights, each as often as its weight says, up to one."""
    n = len(log_w)
    total = jnp.cumsum(jax.nn.softmax(log_w))
    levels = (jnp.arange(n, dtype=log_w.dtype) + jax.random.uniform(key, (), log_w.dtype)) / n
    return jnp.minimum(jnp.searchsorted(total / total[-1], levels), n - 1)
