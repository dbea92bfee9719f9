"""Where a family of matrices M(η) first has an eigenvalue on or outside the unit circle."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from equipoise._types import Array
from equipoise.games._rules.numerics import rounding
from equipoise.games._spectrum.algebra import (
    eigenvalues,
    eigenvectors,
    either,
    namespace,
    repeated_while,
    solve,
)
from equipoise.games._spectrum.spectrum import leading, rounding_level

# From step sizes to matrices, their derivatives by the step size, and residuals, one a step size.
Measure: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]
BATCH = 16


class _Bracket(NamedTuple):
    """The event has not happened at ``low`` and has happened at ``high``, where there is one.

    ``known`` is false where a spectrum on the way there is no number. Fields have one entry for
    the loss of attraction (ρ ≥ 1) and one for that of boundedness (ρ > 1).
    """

    low: Array
    high: Array
    found: Array
    known: Array


class _Table(NamedTuple):
    """Step sizes in order, infinite where not yet chosen, with their spectra and rounding."""

    etas: Array
    spectra: Array
    levels: Array
    rounds: Array


def explore(measure: Measure, size: int, scale: Array, limit: Array, num: int) -> _Bracket:
    """Brackets on (0, limit] for matrices of this size.

    Half of the ``num`` evaluations lie on a geometric grid; the others, in batches, halve the
    intervals in which an eigenvalue can reach the circle, judged by how far it moves there.
    """
    xp = namespace(limit)
    rounds = -(-num // BATCH)
    first = max(1, rounds // 2)
    lowest = 1e-5 * xp.minimum(scale, limit)
    grid = lowest * (limit / lowest) ** xp.linspace(0, 1, first * BATCH, dtype=limit.dtype)
    grid = xp.concatenate([grid[:-1], limit[None]]).reshape(first, BATCH)
    dtype = np.result_type(limit.dtype, np.complex64)
    start = _Table(
        xp.full((rounds * BATCH,), xp.inf, limit.dtype),
        xp.zeros((rounds * BATCH, size), dtype),
        xp.zeros((rounds * BATCH,), limit.dtype),
        xp.asarray(0),
    )

    def advance(table: _Table) -> _Table:
        r = table.rounds
        new = either(
            r < first, lambda: grid[xp.minimum(r, first - 1)], lambda: _doubtful(table, scale)
        )
        matrices, _, _ = measure(new)
        # The last rows are infinite as yet: they make room.
        etas = xp.concatenate([table.etas[:-BATCH], new])
        spectra = xp.concatenate([table.spectra[:-BATCH], eigenvalues(matrices)])
        levels = xp.concatenate([table.levels[:-BATCH], rounding_level(matrices)])
        order = xp.argsort(etas)
        return _Table(etas[order], spectra[order], levels[order], r + 1)

    table = repeated_while(lambda table: table.rounds < rounds, advance, start)
    rho = xp.abs(table.spectra).max(-1)
    events = [_bracket(table.etas, rho, event) for event in _events(table, rho, scale)]
    return _Bracket(*(xp.stack(pair) for pair in zip(*events, strict=True)))


def _events(table: _Table, rho: Array, scale: Array) -> tuple[Array, Array]:
    """At which steps attraction and boundedness are lost, from the spectral radii.

    So near to 0 that ρ cannot be told from 1 the step counts as attracting if the first one that
    can be told is, and lies within a tenth of the natural step.
    """
    xp, etas = namespace(table), table.etas
    unbounded = rho > 1 + _bound_slack(rho.dtype)
    told = xp.abs(rho - 1) > table.levels * rounding(rho.dtype, -0.2)
    first_told = xp.argmax(told)
    repels = told.any() & (rho[first_told] > 1)
    inherits = told.any() & (rho[first_told] < 1) & (etas[first_told] <= 0.1 * scale)
    early = xp.arange(etas.size) < first_told
    lost = xp.where(early, ~inherits, rho >= 1 - table.levels)
    at_once = repels & (etas[first_told] <= 0.1 * scale)
    finite = xp.isfinite(etas)
    return lost & finite, (unbounded | at_once) & finite


def _bound_slack(dtype: np.dtype) -> float:
    """The excess of ρ over 1 that counts: above what rounding makes of a near-Jordan block."""
    return rounding(dtype, 0.6)


def _bracket(etas: Array, rho: Array, happened: Array) -> _Bracket:
    xp = namespace(etas)
    k = xp.argmax(happened)
    low = xp.where(k > 0, etas[xp.maximum(k - 1, 0)], 0)
    on_the_way = xp.cumsum(happened) == 0
    return _Bracket(low, etas[k], happened.any(), ~(on_the_way & xp.isnan(rho)).any())


def _doubtful(table: _Table, scale: Array) -> Array:
    """The midpoints of the intervals in which an eigenvalue is likeliest to reach the circle."""
    xp, etas = namespace(table), table.etas
    _, unbounded = _events(table, xp.abs(table.spectra).max(-1), scale)
    # The interval in which the event happens belongs to those that are searched, later ones do not.
    over = xp.cumsum(unbounded[:-1]) > 0
    score = xp.where(xp.isfinite(etas[1:]) & ~over, _reach(table.spectra), -xp.inf)
    chosen = xp.argsort(-score, stable=True)[:BATCH]
    middle = (etas[chosen] + etas[chosen + 1]) / 2
    return xp.where(xp.isfinite(score[chosen]), middle, etas[0])


def _reach(spectra: Array) -> Array:
    """How far outside the circle an eigenvalue can get between neighboring spectra (k, n)."""
    xp = namespace(spectra)
    a, b, n = spectra[:-1], spectra[1:], spectra.shape[-1]
    itself = xp.eye(n, dtype=bool)[None]
    gaps = xp.where(itself, xp.inf, _distances(spectra, spectra)).min(-1)
    distances = _distances(a, b)
    forth = _outward(a, b, distances, gaps[:-1])
    return xp.maximum(forth, _outward(b, a, xp.swapaxes(distances, -1, -2), gaps[1:]))


def _distances(a: Array, b: Array) -> Array:
    """Between all members of two sets of complex numbers; squares are quicker than moduli."""
    xp = namespace(a, b)
    real = a.real[..., :, None] - b.real[..., None, :]
    imaginary = a.imag[..., :, None] - b.imag[..., None, :]
    return xp.sqrt(real * real + imaginary * imaginary)


def _outward(a: Array, b: Array, distances: Array, gaps: Array) -> Array:
    xp = namespace(a, b)
    nearest = xp.argmin(distances, axis=-1)
    move = xp.take_along_axis(distances, nearest[..., None], axis=-1)[..., 0]
    radial = xp.abs(xp.abs(a) - xp.abs(xp.take_along_axis(b, nearest, axis=-1)))
    # Eigenvalues that may meet between the two steps can leave in any direction.
    outward = xp.where(gaps < 2 * move, move, radial)
    return (xp.abs(a) - 1 + outward).max(-1)


class _Search(NamedTuple):
    """A bracket of each event, the step size that is tried next, and whether it is the event."""

    low: Array
    high: Array
    eta: Array
    done: Array
    step: Array


def polish(measure: Measure, bracket: _Bracket) -> Array:
    """The steps at which events happen after 0: Newton on log|λ|, kept in a shrinking bracket.

    Newton looks for |λ| = 1 of the leading eigenvalue, and is trusted only where the modulus
    crosses with a speed that rounding cannot explain.
    """
    xp = namespace(bracket)
    eps = rounding(bracket.low.dtype)

    def unfinished(now: _Search) -> Array:
        return ~now.done & (now.high - now.low > 2 * eps * now.high) & (now.step < 120)

    def advance(now: _Search) -> _Search:
        low, high, eta, _, step = now
        matrices, derivatives, _ = measure(eta)
        level = rounding_level(matrices)
        rho, speed, doubt = _crossing(matrices, derivatives, level)
        lost, unbounded = rho >= 1 - level, rho > 1 + _bound_slack(rho.dtype)
        hit = xp.stack([lost[0], unbounded[1]])
        low, high = xp.where(hit, low, eta), xp.where(hit, eta, high)
        move = -xp.log(rho) / speed
        trusted = (xp.abs(speed) * eta > 100 * doubt) & (xp.abs(move) <= high - low + eps * eta)
        newton = eta + move
        inside = trusted & (newton >= low) & (newton <= high)
        done = trusted & (xp.abs(move) <= 2 * eps * eta + level / xp.abs(speed))
        # Every fourth step halves, so that Newton from one side cannot stall.
        following = xp.where(inside & (step % 4 != 3), newton, (low + high) / 2)
        new = _Search(low, high, xp.where(done, newton, following), done, step + 1)
        is_open = unfinished(now)
        return _Search(*(xp.where(is_open, n, o) for n, o in zip(new, now, strict=True)))

    low, high, found, _ = bracket
    middle = (low + high) / 2
    start = _Search(low, high, middle, ~found | (low == 0), xp.zeros(2, np.int32))
    end = repeated_while(lambda now: unfinished(now).any(), advance, start)
    return xp.where(end.done, end.eta, end.high)


def _crossing(matrices: Array, derivatives: Array, level: Array) -> tuple[Array, Array, Array]:
    """ρ, ∂log ρ/∂η, and what rounding does to that, of each matrix."""
    xp = namespace(matrices)
    values, vectors = eigenvectors(matrices)
    top = leading(values)[:, None]
    one = (xp.arange(values.shape[-1])[None] == top).astype(values.dtype)
    left = solve(xp.swapaxes(vectors, -1, -2), one)
    right = xp.take_along_axis(vectors, top[:, None], -1)
    pushed = (derivatives.astype(values.dtype) @ right)[..., 0]
    speed = xp.real((left * pushed).sum(-1) / xp.take_along_axis(values, top, -1)[:, 0])
    # Near a Jordan block rounding enters the speed by the square of the condition number.
    return xp.abs(values).max(-1), speed, level * (xp.abs(left) ** 2).sum(-1)
