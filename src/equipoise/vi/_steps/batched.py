"""Where a fit to batches begins: normals local to all of the data, found on few of its rows.

Rows that stand for all lack something of them, which around a point, the anchor, is known to second
order from one pass over the data. What is left to chance is of third order, and next to nothing
once the anchor is the mean of a narrow posterior. So the steps of a fit are those of a density
without noise, and the anchor and the rows are renewed until they no longer matter.
"""

import functools
from typing import NamedTuple

import numpy as np

from equipoise._types import PyTree
from equipoise.vi._families.family import Family
from equipoise.vi._starts.begun import Begun, starting_point
from equipoise.vi._starts.newton import find_starts
from equipoise.vi._starts.normals import Local, best_of, other_modes
from equipoise.vi._steps.natural import ascended
from equipoise.vi._target.batches import Batches, expanded, lacking
from equipoise.vi._target.points import Chance, balanced
from equipoise.vi._target.target import Target, asked_in, num_points, trace
from equipoise.vi._weights.products import transported

_ROWS_EACH = 20  # for each coordinate: so many know where to look
_MOST_ANCHORS = 30
_SMALL_GAIN = 1e-3  # nats that a step on other rows may still promise
_GROW = 4  # times as many rows where the last anchor did not bring a fraction of the gain
_FRACTION = 0.25


class _Settled(NamedTuple):
    """A normal where other rows promise no gain, if any do; and the density of its last rows."""

    mean: np.ndarray
    factor: np.ndarray
    elbo: float
    target: Target
    at_rest: bool


def begin_on_batches(
    batches: Batches,
    family: Family,
    start: PyTree,
    chance: Chance,
    num_restarts: int,
) -> Begun:
    """Local normals of all data, where Newton paths look for them; none of either else.

    Modes are those that some rows have; each is followed to where all rows have it.
    """
    rng = chance.starts
    few = min(-(-_ROWS_EACH * family.dimension // batches.batch_size), batches.num_batches)
    target = trace(batches.on(*batches.some_rows(rng, few)), family)
    center = starting_point(target, family, start)
    if not num_restarts:
        return Begun(center, None, target, at_rest=True)
    noise = balanced(chance.points, num_points(family.dimension), family.dimension)
    found = find_starts(target, center, rng, num_restarts)
    best = best_of(found)
    means, factors, _ = other_modes(found, best.mean, best.factor)
    centers = [best.mean, *transported(best.mean, best.factor, means)]
    spreads = [best.factor, *(best.factor @ factor for factor in factors)]
    settle = functools.partial(_settle, batches, family, rng, noise, few)
    settled = [settle(*pair) for pair in zip(centers, spreads, strict=True)]
    ours = max(settled, key=lambda one: one.elbo)
    fields = ([getattr(one, name) for one in settled] for name in Local._fields)
    return Begun(center, Local(*map(np.stack, fields)), ours.target, ours.at_rest)


@np.errstate(all="ignore")
def _settle(
    batches: Batches,
    family: Family,
    rng: np.random.Generator,
    noise: np.ndarray,
    num_batches: int,
    mean: np.ndarray,
    factor: np.ndarray,
) -> _Settled:
    """Follows a mode from anchor to anchor, on other rows each, and more where those disagree."""
    everything, before = batches.all_rows(), np.inf
    for _ in range(_MOST_ANCHORS):
        rows = batches.some_rows(rng, num_batches)
        center = mean.astype(asked_in(batches.positions))
        sds = np.linalg.norm(factor, axis=1).astype(center.dtype)
        whole, part = (expanded(batches, r, center, sds) for r in (everything, rows))
        target = trace(batches.on(*rows), family, lacking(whole, part))
        gain, state = ascended(target, noise, mean, factor)
        if gain <= _SMALL_GAIN:
            return _Settled(mean, factor, state.elbo, target, at_rest=True)
        if not gain < _FRACTION * before:
            num_batches = _GROW * num_batches
        mean, factor, before = state.mean, state.factor, gain
    return _Settled(mean, factor, state.elbo, target, at_rest=False)
