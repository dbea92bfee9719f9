"""Spectra at many step sizes: what has happened by each of them, and what may happen between."""

from typing import NamedTuple

import numpy as np

from equipoise._types import Array
from equipoise.games._critical.directions import Directions, moving, ranked
from equipoise.games._rules.numerics import rounding
from equipoise.games._spectrum.algebra import namespace


class Table(NamedTuple):
    """Step sizes in order, infinite where not yet chosen, with their spectra and rounding."""

    etas: Array
    spectra: Array
    levels: Array
    rounds: Array
    known: Directions


class Events(NamedTuple):
    """What has happened at each step size of a table: one array an event, and who is outside."""

    happened: tuple[Array, Array, Array]
    outside: Array


def events(table: Table, scale: Array) -> Events:
    """At which steps attraction, boundedness and an attracted direction are lost.

    So near to 0 that ρ cannot be told from 1 the step counts as attracting if the first one that
    can be told is, and lies within a tenth of the natural step.
    """
    xp, etas = namespace(table), table.etas
    rho = xp.abs(table.spectra).max(-1)
    slack = bound_slack(rho.dtype)
    told = xp.abs(rho - 1) > table.levels * rounding(rho.dtype, -0.2)
    first_told = xp.argmax(told)
    repels = told.any() & (rho[first_told] > 1)
    inherits = told.any() & (rho[first_told] < 1) & (etas[first_told] <= 0.1 * scale)
    early = xp.arange(etas.size) < first_told
    lost = xp.where(early, ~inherits, rho >= 1 - table.levels)
    at_once = repels & (etas[first_told] <= 0.1 * scale)
    finite = xp.isfinite(etas)

    sizes, known = _moving_sizes(table), table.known
    # What comes back into the circle counts as attracted from then on.
    inside = ((sizes >= 0) & (sizes < 1 - slack) & finite[:, None]).sum(-1).astype(np.int32)
    inside = xp.maximum.accumulate(xp.maximum(inside, known.attracted))
    outside = xp.clip(sizes.shape[-1] - known.flat - inside, 0, known.repelling)
    top = ranked(table.spectra, sizes, outside)
    size = xp.take_along_axis(sizes, top[:, None], -1)[:, 0]
    happened = lost, (rho > 1 + slack) | at_once, (known.attracted == 0) | (size > 1 + slack)
    return Events(tuple(event & finite for event in happened), outside)


def _moving_sizes(table: Table) -> Array:
    xp = namespace(table)
    return moving(table.spectra, xp.abs(table.spectra - 1), table.known.flat)


def bound_slack(dtype: np.dtype) -> float:
    """The excess of ρ over 1 that counts: above what rounding makes of a near-Jordan block."""
    return rounding(dtype, 0.6)


def reach(table: Table) -> Array:
    """How far outside the circle an eigenvalue that is not there yet can get between two steps."""
    xp, spectra, known = namespace(table), table.spectra, table.known
    a, b, n = spectra[:-1], spectra[1:], spectra.shape[-1]
    itself = xp.eye(n, dtype=bool)[None]
    gaps = xp.where(itself, xp.inf, _distances(spectra, spectra)).min(-1)
    distances = _distances(a, b)
    sizes = _moving_sizes(table)
    largest = xp.sort(sizes, axis=-1)[:, n - 1 - xp.minimum(known.repelling, n - 1)]
    inner = (sizes >= 0) & (sizes <= largest[:, None])
    forth = _outward(a, b, distances, gaps[:-1], inner[:-1])
    return xp.maximum(forth, _outward(b, a, xp.swapaxes(distances, -1, -2), gaps[1:], inner[1:]))


def _distances(a: Array, b: Array) -> Array:
    """Between all members of two sets of complex numbers; squares are quicker than moduli."""
    xp = namespace(a, b)
    real = a.real[..., :, None] - b.real[..., None, :]
    imaginary = a.imag[..., :, None] - b.imag[..., None, :]
    return xp.sqrt(real * real + imaginary * imaginary)


def _outward(a: Array, b: Array, distances: Array, gaps: Array, chosen: Array) -> Array:
    xp = namespace(a, b)
    nearest = xp.argmin(distances, axis=-1)
    move = xp.take_along_axis(distances, nearest[..., None], axis=-1)[..., 0]
    radial = xp.abs(xp.abs(a) - xp.abs(xp.take_along_axis(b, nearest, axis=-1)))
    # Eigenvalues that may meet between the two steps can leave in any direction.
    outward = xp.where(gaps < 2 * move, move, radial)
    return xp.where(chosen, xp.abs(a) - 1 + outward, -xp.inf).max(-1)
