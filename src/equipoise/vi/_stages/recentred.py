"""Draws of a normal that is partly non-centered: which coordinates scale which, and by how much.

How the curvature along a coordinate changes with the others says what scales it. How far it is
scaled is what the ELBO says, coordinate by coordinate: from none, a centered effect, to all of its
scale, and on the two sides of the scale as far as data there ask for it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from equipoise.vi._stages.beginning import Beginning, Drawn
from equipoise.vi._stages.scaled import KNOTS, Parents, Scaled, moved, step_of
from equipoise.vi._weights.adapt import adapt, first_mixture, propose
from equipoise.vi._weights.diagnose import summarize
from equipoise.vi._weights.growth import Draws, grown
from equipoise.vi._weights.products import rows_times, transported
from equipoise.vi._weights.verdict import NO_DOUBT

_CURVED, _CURVED_EACH = 256, 6  # points whose curvatures are looked at, and for each coordinate
_LEAST = 0.15  # change of a log curvature by one sd of another coordinate that scales
_SURE = 4.0  # standard errors of it
_NEIGHBORS = 0.02  # correlation of two coordinates given all others that shifts one by the other
_FLAT = 0.05  # of the curvature that a coordinate has with its sd: the least that counts
_MOST_PARENTS = 16
_POINTS, _POINTS_EACH = 1024, 32  # of the ELBO, and for each coordinate
_STEPS, _GAIN = 60, 0.02  # and nats that a step gains when they end
_SHRINK, _GROW = 0.3, 2.0
_NUM_DRAWS, _MOST_DRAWS = 8192, 2**17
_ROUNDS = 16


def find_parents(start: Beginning) -> tuple[np.ndarray, Parents] | None:
    """An order of the coordinates, and in it what scales and shifts what; None where nothing does."""
    d, sds = len(start.mean), start.sds
    noise = start.rng.standard_normal((max(_CURVED, _CURVED_EACH * d), d))
    away = rows_times(noise, start.factor.T)
    curved = start.curvatures((start.mean + away).astype(start.dtype))[2]
    sound = np.all(np.isfinite(curved), axis=(1, 2))
    noise, away, curved = noise[sound], away[sound] / sds, -curved[sound]
    n = len(noise)
    if n < 2 * d:
        return None
    precise = np.sum(np.linalg.inv(start.factor) ** 2, axis=0)  # conditional precisions
    logs = np.log(np.maximum(np.diagonal(curved, axis1=1, axis2=2) / precise, _FLAT))
    known = np.concatenate([np.ones((n, 1)), away], axis=1)
    slopes, *_ = np.linalg.lstsq(known, logs)
    rest = np.mean((logs - known @ slopes) ** 2, axis=0) ** 0.5
    errors = np.sqrt(np.diagonal(np.linalg.inv(known.T @ known)))[1:, None] * rest
    slopes = slopes[1:].T
    strength = np.where((abs(slopes) > _LEAST) & (abs(slopes) > _SURE * errors.T), abs(slopes), 0)
    np.fill_diagonal(strength, 0)
    if not strength.any():
        return None
    mean = np.mean(curved, axis=0)
    size = np.sqrt(abs(np.diagonal(mean)))
    near = abs(mean) / (size[:, None] * size) * (strength.any(axis=1)[:, None])
    order, level = _levels(strength, np.where(near > _NEIGHBORS, near, 0))
    before = level[:, None] > level
    scale = _strongest(strength * before)
    shift = scale | _strongest(np.where(before & (near > _NEIGHBORS), near, 0))
    grid = np.ix_(order, order)
    ends = np.flatnonzero(np.diff(level[order], append=level.max() + 1)) + 1
    return order, Parents(scale[grid], shift[grid], tuple(ends.tolist()))


def _levels(strength: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order in which what scales most comes first, and how many steps away each is from the top.

    Of two that scale each other the stronger is the parent. Of neighbors that others scale, one
    with more neighbors comes first.
    """
    d = len(strength)
    square, left, order = strength**2, np.ones(d, bool), []
    for _ in range(d):
        given = square[left].sum(axis=0) - square[:, left].sum(axis=1)
        order.append(int(np.argmax(np.where(left, given, -np.inf))))
        left[order[-1]] = False
    scaling = np.zeros((d, d), bool)
    for place, one in enumerate(order):
        scaling[one, order[:place]] = strength[one, order[:place]] > 0
    level = _depth(order, scaling)
    order = sorted(order, key=lambda one: (level[one], -np.sum(near[:, one] ** 2)))
    above = scaling.copy()
    for place, one in enumerate(order):
        for other in order[:place]:
            above[one, other] |= near[one, other] > 0 and bool(np.any(scaling[one] != scaling[other]))
    level = _depth(order, above)
    return np.argsort(level, kind="stable"), level


def _depth(order: list[int], above: np.ndarray) -> np.ndarray:
    level = np.zeros(len(order), int)
    for one in order:
        level[one] = 1 + np.max(level[above[one]]) if above[one].any() else 0
    return level


def _strongest(strength: np.ndarray) -> np.ndarray:
    """The strongest of each row, of those that are not 0."""
    if strength.shape[1] > _MOST_PARENTS:
        least = np.sort(strength, axis=1)[:, -_MOST_PARENTS - 1]
        strength = np.where(strength > least[:, None], strength, 0)
    return strength > 0


class Recentred(NamedTuple):
    """A map from noise to positions."""

    start: Beginning
    order: np.ndarray
    parents: Parents
    scaled: Scaled

    def points(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the noise, and the log volume factor there."""
        y, log_scale = self.scaled.of(noise, self.parents.levels)
        points = np.empty_like(y)
        sds = self.start.sds
        points[:, self.order] = y * sds[self.order]
        return self.start.mean + points, self.scaled.log_volume(noise, log_scale) + np.sum(np.log(sds))

    def log_p(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the noise, and log p of them as a density of the noise."""
        points, log_volume = self.points(noise)
        values = self.start.values(points.astype(self.start.dtype)) + log_volume
        return points, np.where(np.isfinite(values), values, -np.inf)

    def learned(self, noise: np.ndarray) -> tuple["Recentred", float]:
        """The map of the largest ELBO over these points of the noise, and that ELBO."""
        dtype, sds = self.start.dtype, self.start.sds[self.order]

        def asked(scaled: Scaled) -> tuple[float, np.ndarray]:
            points, log_volume = self._replace(scaled=scaled).points(noise)
            values, slopes = self.start.gradients(points.astype(dtype))
            return float(np.mean(values + log_volume)), slopes[:, self.order] * sds

        here, rate = self.scaled, 1.0
        elbo, slope = asked(here)
        trace = []
        step = step_of(here, self.parents, noise, slope)
        for _ in range(_STEPS):
            there = moved(here, step.change, rate)
            found, slope = asked(there)
            if found >= elbo and np.all(np.isfinite(slope)):
                gained, here, elbo = found - elbo, there, found
                step = step_of(here, self.parents, noise, slope)
                trace.append((round(elbo, 2), round(step.gain, 3), rate))
                rate = min(_GROW * rate, 1.0)
                if step.gain < _GAIN and gained < _GAIN:
                    break
            else:
                rate *= _SHRINK
                if rate < 1e-6: break
        self.log(trace)
        return self._replace(scaled=here), elbo

    def log(self, trace):
        import os
        if os.environ.get("NCDEBUG"):
            print("levels", self.parents.levels, "pairs", self.parents.scale.sum(), self.parents.shift.sum(), len(trace), trace[:3], trace[-4:])


@np.errstate(all="ignore")  # what is not finite has no weight
def draw_recentred(start: Beginning) -> Drawn | None:
    """Weighted draws of a mixture in coordinates that are recentred; None where nothing scales."""
    d = len(start.mean)
    if d > start.most_curved:
        return None
    found = find_parents(start)
    if found is None:
        return None
    order, parents = found
    rows = (start.factor / start.sds[:, None])[order]
    root = np.linalg.cholesky(rows @ rows.T)
    zero = np.zeros((d, (1 + len(KNOTS)) * d))
    half = start.rng.standard_normal((max(_POINTS, _POINTS_EACH * d) // 2, d))
    noise = np.concatenate([half, -half])
    first = Recentred(start, order, parents, Scaled(np.zeros(d), root, np.zeros(d), zero, zero))
    learned, _ = first.learned(noise)
    rng, number = start.rng, min(_NUM_DRAWS, start.affordable(_MOST_DRAWS))

    nothing = np.zeros((0, d)), np.zeros((0, d, d)), np.zeros(0)

    def log_p(noise: np.ndarray) -> np.ndarray:
        return learned.log_p(noise)[1]

    mixture, _ = adapt(
        log_p,
        first_mixture(rng, 1, *nothing),
        rng,
        num_samples=number,
        num_rounds=_ROUNDS,
    )

    def draw() -> Draws:
        noise, log_q = propose(rng, mixture, number)
        points, log_p = learned.log_p(noise)
        return points, log_p, log_q

    weighted = grown(draw, draw(), num_rounds=4, most=start.affordable(_MOST_DRAWS) // number)
    self_log(weighted)
    return Drawn(weighted, summarize(weighted), NO_DOUBT)


def self_log(w):
    import os
    if os.environ.get("NCDEBUG"):
        f = summarize(w); print("khat %.2f ess %.0f of %d merr %.3f sderr %.3f" % (f.khat, f.effective_sample_size, f.num_draws, f.mean_error, f.sd_error), flush=True)
