"""Where a family of matrices M(η) first has an eigenvalue on or outside the unit circle."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from equipoise._types import Array
from equipoise.games._rules.numerics import rounding
from equipoise.games._spectrum.spectrum import (
    Cluster,
    differential,
    follow,
    leading,
    rounding_level,
)

_Family: TypeAlias = Callable[[Array], Array]
_BATCH = 16


class Bracket(NamedTuple):
    """The event has not happened at ``low`` and has happened at ``high``, where there is one.

    ``known`` is false where a spectrum on the way there is no number.
    """

    low: Array
    high: Array
    found: Array
    known: Array


def explore(family: _Family, scale: Array, limit: Array, num: int) -> tuple[Bracket, Bracket]:
    """Brackets of the loss of attraction (ρ ≥ 1) and of boundedness (ρ > 1) on (0, limit].

    Half of the ``num`` evaluations lie on a geometric grid; the others, in batches, halve the
    intervals in which an eigenvalue can reach the circle, judged by how far it moves there.
    """
    rounds = -(-num // _BATCH)
    num = rounds * _BATCH
    first = max(1, rounds // 2)
    lowest = 1e-5 * jnp.minimum(scale, limit)
    grid = lowest * (limit / lowest) ** jnp.linspace(0, 1, first * _BATCH, dtype=limit.dtype)
    grid = grid.at[-1].set(limit)

    def spectrum(eta: Array) -> tuple[Array, Array]:
        matrix = family(eta)
        return jnp.linalg.eigvals(matrix), rounding_level(matrix)

    example, level = jax.eval_shape(spectrum, limit)
    etas = jnp.full((num,), jnp.inf, limit.dtype)
    spectra = jnp.zeros((num, *example.shape), example.dtype)
    levels = jnp.zeros((num,), level.dtype)

    def advance(r: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        etas, spectra, levels = carry
        preset = jax.lax.dynamic_slice_in_dim(grid, jnp.minimum(r, first - 1) * _BATCH, _BATCH)
        new = jnp.where(r < first, preset, _doubtful(etas, spectra, levels, scale))
        values, level = jax.vmap(spectrum)(new)
        etas = jax.lax.dynamic_update_slice_in_dim(etas, new, r * _BATCH, 0)
        spectra = jax.lax.dynamic_update_slice_in_dim(spectra, values, r * _BATCH, 0)
        levels = jax.lax.dynamic_update_slice_in_dim(levels, level, r * _BATCH, 0)
        order = jnp.argsort(etas)
        return etas[order], spectra[order], levels[order]

    etas, spectra, levels = jax.lax.fori_loop(0, rounds, advance, (etas, spectra, levels))
    rho = jnp.max(jnp.abs(spectra), axis=1)
    lost, unbounded = _events(etas, rho, levels, scale)
    return _bracket(etas, rho, lost), _bracket(etas, rho, unbounded)


def _events(etas: Array, rho: Array, level: Array, scale: Array) -> tuple[Array, Array]:
    """At which steps attraction and boundedness are lost, from the spectral radii.

    So near to 0 that ρ cannot be told from 1 the step counts as attracting if the first one that
    can be told is, and lies within a tenth of the natural step.
    """
    unbounded = rho > 1 + bound_slack(rho.dtype)
    told = jnp.abs(rho - 1) > level * rounding(rho.dtype, -0.2)
    first_told = jnp.argmax(told)
    repels = jnp.any(told) & (rho[first_told] > 1)
    inherits = jnp.any(told) & (rho[first_told] < 1) & (etas[first_told] <= 0.1 * scale)
    early = jnp.arange(etas.size) < first_told
    lost = jnp.where(early, ~inherits, rho >= 1 - level)
    at_once = repels & (etas[first_told] <= 0.1 * scale)
    finite = jnp.isfinite(etas)
    return lost & finite, (unbounded | at_once) & finite


def bound_slack(dtype: jnp.dtype) -> float:
    """The excess of ρ over 1 that counts: above what rounding makes of a near-Jordan block."""
    return rounding(dtype, 0.6)


def _bracket(etas: Array, rho: Array, happened: Array) -> Bracket:
    k = jnp.argmax(happened)
    low = jnp.where(k > 0, etas[jnp.maximum(k - 1, 0)], 0)
    on_the_way = jnp.cumsum(happened) == 0
    return Bracket(low, etas[k], jnp.any(happened), ~jnp.any(on_the_way & jnp.isnan(rho)))


def _doubtful(etas: Array, spectra: Array, levels: Array, scale: Array) -> Array:
    """The midpoints of the intervals in which an eigenvalue is likeliest to reach the circle."""
    rho = jnp.max(jnp.abs(spectra), axis=1)
    _, unbounded = _events(etas, rho, levels, scale)
    known = jnp.isfinite(etas)
    score = jax.vmap(_reach)(spectra[:-1], spectra[1:])
    # The interval in which the event happens belongs to those that are searched, later ones do not.
    over = jnp.cumsum(unbounded[:-1]) > 0
    score = jnp.where(known[1:] & ~over, score, -jnp.inf)
    best, chosen = jax.lax.top_k(score, _BATCH)
    middle = (etas[chosen] + etas[chosen + 1]) / 2
    return jnp.where(jnp.isfinite(best), middle, etas[0])


def _reach(a: Array, b: Array) -> Array:
    """How far outside the circle an eigenvalue can get between two neighboring spectra."""
    distance = jnp.abs(a[:, None] - b[None, :])
    return jnp.maximum(_outward(a, b, distance), _outward(b, a, distance.T))


def _outward(a: Array, b: Array, distance: Array) -> Array:
    nearest = jnp.argmin(distance, axis=1)
    move = jnp.take_along_axis(distance, nearest[:, None], axis=1)[:, 0]
    radial = jnp.abs(jnp.abs(a) - jnp.abs(b[nearest]))
    gaps = jnp.abs(a[:, None] - a[None, :]) + jnp.diag(jnp.full(a.shape, jnp.inf, move.dtype))
    # Eigenvalues that may meet between the two steps can leave in any direction.
    outward = jnp.where(jnp.min(gaps, axis=1) < 2 * move, move, radial)
    return jnp.max(jnp.abs(a) - 1 + outward)


class _Search(NamedTuple):
    """A bracket of an event, the step size that is tried next, and whether it is the event."""

    low: Array
    high: Array
    eta: Array
    done: Array
    step: Array


def polish(family: _Family, bracket: Bracket, happened: Callable[[Array, Array], Array]) -> Array:
    """The step at which the event happens: Newton on log|λ|, kept inside a shrinking bracket.

    ``happened(rho, level)`` is the event; Newton looks for |λ| = 1 of the leading eigenvalue, and
    is trusted only where the modulus crosses with a speed that rounding cannot explain.
    """
    eps = rounding(bracket.low.dtype)

    def measure(eta: Array) -> tuple[Array, Array, Array, Array]:
        matrix, derivative = jax.jvp(family, (eta,), (jnp.ones_like(eta),))
        values, vectors = jnp.linalg.eig(matrix)
        top = leading(values)
        left = jnp.linalg.solve(vectors.T, jax.nn.one_hot(top, values.size, dtype=values.dtype))
        speed = jnp.real(left @ (derivative.astype(values.dtype) @ vectors[:, top]) / values[top])
        # Near a Jordan block rounding enters the speed by the square of the condition number.
        doubt = rounding_level(matrix) * jnp.sum(jnp.abs(left) ** 2)
        return jnp.max(jnp.abs(values)), rounding_level(matrix), speed, doubt

    def unfinished(carry: _Search) -> Array:
        return ~carry.done & (carry.high - carry.low > 2 * eps * carry.high) & (carry.step < 120)

    def advance(carry: _Search) -> _Search:
        low, high, eta, _, step = carry
        rho, level, speed, doubt = measure(eta)
        hit = happened(rho, level)
        low, high = jnp.where(hit, low, eta), jnp.where(hit, eta, high)
        move = -jnp.log(rho) / speed
        trusted = (jnp.abs(speed) * eta > 100 * doubt) & (jnp.abs(move) <= high - low + eps * eta)
        newton = eta + move
        inside = trusted & (newton >= low) & (newton <= high)
        done = trusted & (jnp.abs(move) <= 2 * eps * eta + level / jnp.abs(speed))
        # Every fourth step halves, so that Newton from one side cannot stall.
        following = jnp.where(inside & (step % 4 != 3), newton, (low + high) / 2)
        return _Search(low, high, jnp.where(done, newton, following), done, step + 1)

    middle = (bracket.low + bracket.high) / 2
    start = _Search(
        jnp.where(bracket.found, bracket.low, middle),
        jnp.where(bracket.found, bracket.high, middle),
        middle,
        ~bracket.found,
        jnp.asarray(0),
    )
    found = jax.lax.while_loop(unfinished, advance, start)
    return jnp.where(found.done, found.eta, found.high)


def implicit(family: _Family, eta: Array, critical: Cluster) -> Array:
    """η, with the derivative −∂log|λ| / ∂_η log|λ| by all that the family depends on."""

    def log_modulus(s: Array) -> Array:
        return jnp.log(jnp.abs(follow(critical, family(s))))

    value, speed = jax.jvp(log_modulus, (eta,), (jnp.ones_like(eta),))
    return eta - differential(value) / jax.lax.stop_gradient(speed)
