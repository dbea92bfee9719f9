"""Where a family of matrices M(η) first has an eigenvalue on or outside the unit circle."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from equipoise._types import Array
from equipoise.games._critical.directions import Directions, directions, moving, ranked
from equipoise.games._critical.table import Table, bound_slack, events, reach
from equipoise.games._rules.numerics import rounding
from equipoise.games._spectrum.algebra import (
    eigenvalues,
    eigenvectors,
    either,
    inverse,
    namespace,
    repeated_while,
)
from equipoise.games._spectrum.spectrum import leading, rounding_level

# From step sizes to matrices, their derivatives by the step size, and residuals, one per step size.
Measure: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]
BATCH = 16


class _Bracket(NamedTuple):
    """The event has not happened at ``low`` and has happened at ``high``, where there is one.

    ``known`` is false where a spectrum on the way there is no number. Fields have one entry for
    the loss of attraction (ρ ≥ 1), one for that of boundedness (ρ > 1), and one for that of the
    first attracted direction; up to then so many others are outside the circle.
    """

    low: Array
    high: Array
    found: Array
    known: Array
    outside: Array


def explore(
    measure: Measure, size: int, scale: Array, limit: Array, num: int
) -> tuple[_Bracket, Directions]:
    """Brackets on (0, limit] for matrices of this size, and what small steps do to directions.

    Half of the ``num`` evaluations lie on a geometric grid; the others, in batches, halve the
    intervals in which an eigenvalue can reach the circle, judged by how far it moves there.
    """
    xp = namespace(limit)
    rounds = -(-num // BATCH)
    first = max(1, rounds // 2)
    lowest = rounding(limit.dtype, 1 / 3) * xp.minimum(scale, limit)
    grid = lowest * (limit / lowest) ** xp.linspace(0, 1, first * BATCH, dtype=limit.dtype)
    grid = xp.concatenate([grid[:-1], limit[None]]).reshape(first, BATCH)
    dtype = np.result_type(limit.dtype, np.complex64)
    start = Table(
        xp.full((rounds * BATCH,), xp.inf, limit.dtype),
        xp.zeros((rounds * BATCH, size), dtype),
        xp.zeros((rounds * BATCH,), limit.dtype),
        xp.asarray(0),
        Directions(*xp.zeros(3, np.int32)),
    )

    def advance(table: Table) -> Table:
        r = table.rounds
        new = either(
            r < first, lambda: grid[xp.minimum(r, first - 1)], lambda: _doubtful(table, scale)
        )
        matrices, slopes, _ = measure(new)
        known = either(
            r == 0, lambda: directions(matrices[0], slopes[0], new[0]), lambda: table.known
        )
        # The last rows are infinite as yet: they make room.
        etas = xp.concatenate([table.etas[:-BATCH], new])
        spectra = xp.concatenate([table.spectra[:-BATCH], eigenvalues(matrices)])
        levels = xp.concatenate([table.levels[:-BATCH], rounding_level(matrices)])
        order = xp.argsort(etas)
        return Table(etas[order], spectra[order], levels[order], r + 1, known)

    table = repeated_while(lambda table: table.rounds < rounds, advance, start)
    found = events(table, scale)
    rho = xp.abs(table.spectra).max(-1)
    brackets = [_bracket(table.etas, rho, event, found.outside) for event in found.happened]
    return _Bracket(*(xp.stack(fields) for fields in zip(*brackets, strict=True))), table.known


def _bracket(etas: Array, rho: Array, happened: Array, outside: Array) -> _Bracket:
    xp = namespace(etas)
    k = xp.argmax(happened)
    low = xp.where(k > 0, etas[xp.maximum(k - 1, 0)], 0)
    on_the_way = xp.cumsum(happened) == 0
    known = ~(on_the_way & xp.isnan(rho)).any()
    return _Bracket(low, etas[k], happened.any(), known, outside[k])


def _doubtful(table: Table, scale: Array) -> Array:
    """The midpoints of the intervals in which an eigenvalue is likeliest to reach the circle."""
    xp, etas = namespace(table), table.etas
    _, unbounded, lost = events(table, scale).happened
    # Intervals are searched up to the last event of a direction that can still be lost.
    over = xp.cumsum((unbounded & lost)[:-1]) > 0
    score = xp.where(xp.isfinite(etas[1:]) & ~over, reach(table), -xp.inf)
    chosen = xp.argsort(-score, stable=True)[:BATCH]
    middle = (etas[chosen] + etas[chosen + 1]) / 2
    return xp.where(xp.isfinite(score[chosen]), middle, etas[0])


class _Search(NamedTuple):
    """A bracket of each event, the step size that is tried next, and whether it is the event.

    ``value`` is the eigenvalue that the event is about, at the step size that is tried next.
    """

    low: Array
    high: Array
    eta: Array
    value: Array
    done: Array
    step: Array


def polish(measure: Measure, bracket: _Bracket, known: Directions) -> tuple[Array, Array]:
    """The steps at which events happen after 0, and the eigenvalues that are lost there.

    Newton looks for |λ| = 1 of the largest eigenvalue that the event is about, in a shrinking
    bracket, and is trusted only where the modulus crosses with a speed that rounding cannot
    explain.
    """
    xp = namespace(bracket)
    eps = rounding(bracket.low.dtype)

    def unfinished(now: _Search) -> Array:
        return ~now.done & (now.high - now.low > 2 * eps * now.high) & (now.step < 120)

    def advance(now: _Search) -> _Search:
        low, high, eta, _, _, step = now
        matrices, derivatives, _ = measure(eta)
        level = rounding_level(matrices)
        value, rate, condition = _largest(matrices, derivatives, eta, bracket.outside, known.flat)
        rho, speed = xp.abs(value), xp.real(rate / value)
        beyond = rho > 1 + bound_slack(rho.dtype)
        hit = xp.stack([rho[0] >= 1 - level[0], beyond[1], beyond[2]])
        low, high = xp.where(hit, low, eta), xp.where(hit, eta, high)
        move = -xp.log(rho) / speed
        # Near a Jordan block rounding enters the speed by the square of the condition number.
        trusted = xp.abs(speed) * eta > 100 * level * condition**2
        trusted = trusted & (xp.abs(move) <= high - low + eps * eta)
        newton = eta + move
        inside = trusted & (newton >= low) & (newton <= high)
        # Newton squares a relative error: from √ε it leaves rounding.
        near = (2 * eps + rounding(eta.dtype, 0.55) / condition**2) * eta
        done = trusted & (xp.abs(move) <= near + level / xp.abs(speed))
        # Every fourth step halves, so that Newton from one side cannot stall.
        following = xp.where(inside & (step % 4 != 3), newton, (low + high) / 2)
        following = xp.where(done, newton, following)
        value = value + (following - eta).astype(rate.dtype) * rate
        new = _Search(low, high, following, value, done, step + 1)
        is_open = unfinished(now)
        return _Search(*(xp.where(is_open, n, o) for n, o in zip(new, now, strict=True)))

    low, high, found, _, _ = bracket
    middle, one = (low + high) / 2, xp.ones(3, np.result_type(low.dtype, np.complex64))
    start = _Search(low, high, middle, one, ~found | (low == 0), xp.zeros(3, np.int32))
    end = repeated_while(lambda now: unfinished(now).any(), advance, start)
    return xp.where(end.done, end.eta, end.high), end.value


def _largest(
    matrices: Array, derivatives: Array, etas: Array, outside: Array, num_flat: Array
) -> tuple[Array, Array, Array]:
    """The eigenvalue of each event, its derivative by η, and its condition number."""
    xp = namespace(matrices)
    values, vectors = eigenvectors(matrices)
    left = inverse(vectors)
    rates = ((left @ derivatives.astype(values.dtype)) * xp.swapaxes(vectors, -1, -2)).sum(-1)
    # One that passes 1 at a speed is told from the flat ones by its speed.
    sizes = moving(values, xp.abs(values - 1) + etas[:, None] * xp.abs(rates), num_flat)
    among = outside * np.asarray([0, 0, 1], np.int32)
    top = xp.concatenate([leading(values[:1]), ranked(values, sizes, among)[1:]])
    condition = xp.sqrt((xp.abs(left) ** 2).sum(-1))
    lane = np.arange(3)
    return values[lane, top], rates[lane, top], condition[lane, top]
