"""Draws of a normal that is partly non-centered: which coordinates scale which, and by how much.

How the curvature along a coordinate changes with the others says what scales it. How far it is
scaled is what the ELBO says, each coordinate by itself: from not at all, a centered effect, to all
of its scale. It asks the log density for values and derivatives as a fit does, and compiles
nothing.
"""

from typing import NamedTuple

import numpy as np

from equipoise.vi._stages.beginning import GRADIENT, Beginning, Drawn, TooDear
from equipoise.vi._weights.adapt import adapt, first_mixture, propose
from equipoise.vi._weights.diagnose import MIN_DRAWS, summarize
from equipoise.vi._weights.growth import Draws, grown
from equipoise.vi._weights.products import rows_times
from equipoise.vi._weights.scaled import Parents, Scaled, natural_step, unscaled
from equipoise.vi._weights.verdict import NO_DOUBT

_CURVED, _CURVED_EACH = 256, 6  # points whose curvatures are looked at, and for each coordinate
_LEAST, _SURE = 0.15, 4.0  # change of a log curvature by one sd of what scales, and its errors
_NEIGHBORS = 0.02  # correlation, given all others, of two coordinates that shift each other
_FLAT = 0.05  # of the curvature that a coordinate has with its sd: the least that counts
_MOST_PARENTS = 16
_POINTS, _POINTS_EACH = 1024, 32  # of the first ELBO, and for each coordinate
_MORE, _STEPS = (1, 4, 8), 60  # times as many of those after it, as few points are fitted too well
_GAIN = 0.02  # nats of a step, below which the steps end
_SHRINK, _GROW, _SHORTEST = 0.3, 2.0, 1e-4
_NUM_DRAWS, _MOST_DRAWS, _ROUNDS, _FEW = 8192, 2**17, 16, 4


class _Recentred(NamedTuple):
    """A map from noise to flat vectors, by coordinates in units of q and in an order of its own."""

    start: Beginning
    order: np.ndarray
    parents: Parents
    scaled: Scaled

    def points(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat vectors, and log volume factors there."""
        y, log_volume = self.scaled.points(noise, self.parents)
        points, sds = np.empty_like(y), self.start.sds
        points[:, self.order] = y
        return self.start.mean + sds * points, log_volume + np.sum(np.log(sds))

    def drawn(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat vectors, and log p as a density of the noise."""
        points, log_volume = self.points(noise)
        log_p = self.start.values(points) + log_volume
        return points, np.where(np.isfinite(log_p), log_p, -np.inf)

    def asked(self, noise: np.ndarray) -> tuple[float, np.ndarray]:
        """The ELBO over these points of the noise, up to a constant, and slopes of log p."""
        points, log_volume = self.points(noise)
        values, slopes = self.start.gradients(points)
        return float(np.mean(values + log_volume)), (self.start.sds * slopes)[:, self.order]

    def learned(self, noise: np.ndarray) -> "_Recentred":
        """The map after steps towards the largest ELBO over these points of the noise."""
        here, rate = self, 1.0
        elbo, slope = here.asked(noise)
        step, gain = natural_step(here.scaled, self.parents, noise, slope)
        for _ in range(_STEPS):
            there = here._replace(scaled=here.scaled.moved(step, rate))
            found, slope = there.asked(noise)
            if found >= elbo and np.all(np.isfinite(slope)):
                gained, here, elbo, rate = found - elbo, there, found, min(_GROW * rate, 1.0)
                step, gain = natural_step(here.scaled, self.parents, noise, slope)
                if max(gain, gained) < _GAIN:
                    break
            else:
                rate *= _SHRINK
                if not rate > _SHORTEST:
                    break
        return here


@np.errstate(all="ignore")  # what is not finite has no weight
def draw_recentred(start: Beginning) -> Drawn | TooDear | None:
    """Weighted draws in coordinates that are partly non-centered.

    None where nothing is scaled, and where no curvature is known.
    """
    rng, d = start.rng, len(start.mean)
    if d > start.most_curved:
        return None
    value = start.work + d**2
    gradient = GRADIENT * start.work + d**2
    curved, size = max(_CURVED, _CURVED_EACH * d), max(_POINTS, _POINTS_EACH * d)
    least = curved * d + _STEPS * size
    if start.affordable(gradient) < least:
        return TooDear(least * gradient)
    found = _related(start, curved)
    if found is None:
        return None
    order, parents = found
    rows = (start.factor / start.sds[:, None])[order]
    here = _Recentred(start, order, parents, unscaled(np.linalg.cholesky(rows @ rows.T)))
    for more in _MORE:
        if more * least <= start.affordable(gradient):
            half = rng.standard_normal((more * size // 2, d))
            here = here.learned(np.concatenate([half, -half]))
    left = start.affordable(value)
    number = min(_NUM_DRAWS, max(left // (2 * _ROUNDS), MIN_DRAWS))
    mixture, _ = adapt(
        lambda noise: here.drawn(noise)[1],
        first_mixture(rng, 1, np.zeros((0, d)), np.zeros((0, d, d)), np.zeros(0)),
        rng,
        num_samples=number,
        num_rounds=_ROUNDS,
    )

    def draw() -> Draws:
        noise, log_q = propose(rng, mixture, number)
        return *here.drawn(noise), log_q

    most = min(left // 2, _MOST_DRAWS) // number
    weighted = grown(draw, draw(), num_rounds=_FEW, most=max(most, 1))
    return Drawn(weighted, summarize(weighted), NO_DOUBT)


def _related(start: Beginning, number: int) -> tuple[np.ndarray, Parents] | None:
    """An order of coordinates, and in it what scales and shifts what; None where nothing scales."""
    d = len(start.mean)
    away = rows_times(start.rng.standard_normal((number, d)), start.factor.T)
    curved: np.ndarray = -start.curvatures(start.mean + away)[2]
    sound = np.flatnonzero(np.all(np.isfinite(curved), axis=(1, 2)))
    curved = np.take(curved, sound, axis=0)
    away = away[sound] / start.sds
    if len(away) < number // 2:
        return None
    # A log curvature is linear in the log of what scales it.
    precise = np.sum(np.linalg.inv(start.factor) ** 2, axis=0)
    logs = np.log(np.maximum(np.diagonal(curved, axis1=1, axis2=2) / precise, _FLAT))
    known = np.concatenate([np.ones((len(away), 1)), away], axis=1)
    inverse = np.linalg.inv(known.T @ known)
    slopes = inverse @ (known.T @ logs)
    rest = np.mean((logs - known @ slopes) ** 2, axis=0) ** 0.5
    errors = np.sqrt(np.diagonal(inverse))[:, None] * rest
    size = abs(slopes[1:])
    strength = np.where(size > np.maximum(_LEAST, _SURE * errors[1:]), size, 0).T
    np.fill_diagonal(strength, 0)
    if not strength.any():
        return None
    mean = abs(np.mean(curved, axis=0))
    near = mean / np.sqrt(np.diagonal(mean)[:, None] * np.diagonal(mean))
    near = np.where((near > _NEIGHBORS) & np.any(strength, axis=1, keepdims=True), near, 0)
    level = _levels(strength, near)
    before = level[:, None] > level
    scale = _strongest(strength * before)
    shift = scale | _strongest(near * before)
    order = np.argsort(level, kind="stable")
    grid, ends = np.ix_(order, order), np.cumsum(np.bincount(level))
    return order, Parents(scale[grid], shift[grid], tuple(ends.tolist()))


def _levels(strength: np.ndarray, near: np.ndarray) -> np.ndarray:
    """How many steps each coordinate is away from those that nothing scales.

    Of two that scale each other that which scales more comes first, and of neighbors that others
    scale that with more neighbors: a mean of groups before the groups.
    """
    square, left, order = strength**2, np.ones(len(strength), bool), []
    while left.any():
        given = square[left].sum(axis=0) - square[:, left].sum(axis=1)
        order.append(int(np.argmax(np.where(left, given, -np.inf))))
        left[order[-1]] = False
    place = np.argsort(order)
    scaling = (strength > 0) & (place[:, None] > place)
    level = _depths(order, scaling)
    order = np.lexsort((-np.sum(near**2, axis=0), level)).tolist()
    place = np.argsort(order)
    unlike = np.any(scaling[:, None] != scaling, axis=2)
    return _depths(order, scaling | ((near > 0) & unlike & (place[:, None] > place)))


def _depths(order: list[int], above: np.ndarray) -> np.ndarray:
    """Lengths of the longest chains to each coordinate, which comes after all that is above it."""
    depth = np.zeros(len(order), int)
    for one in order:
        depth[one] = 1 + np.max(depth[above[one]]) if above[one].any() else 0
    return depth


def _strongest(strength: np.ndarray) -> np.ndarray:
    """The strongest of each row, of those that are not 0."""
    least = np.sort(strength, axis=1)[:, -_MOST_PARENTS:][:, :1] if strength.size else strength
    strongest: np.ndarray = (strength > 0) & (strength >= least)
    return strongest
