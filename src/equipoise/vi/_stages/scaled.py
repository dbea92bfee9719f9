"""A normal whose coordinates are scaled and shifted by others: partial non-centering, learned.

In units of the last q, and in an order in which what scales comes before what is scaled,

    y_i = c_i + b_i · f(y_<) + e^{a_i · f(y_<)} (L g)_i,   f(y) = (y, log cosh y),
    g_j = ε_j + k_j (log cosh ε_j − E log cosh ε_j).

With a = b = 0 it is the normal. With a_i the log scale itself a centered effect becomes one in
units of its scale, with less of it any form between; log cosh lets slopes differ on two sides, as
where data take over from a prior. The Fisher information of ε ↦ y has blocks of a coordinate each,
so that natural-gradient steps are small systems of equations.
"""

import math
from typing import NamedTuple

import numpy as np

from equipoise.vi._weights.products import gram, rows_times

KNOTS = (0.0,)  # sds at which lines bend
_LONGEST = 1.0  # change of a log scale that one step makes
_MEAN_BEND, _SKEW = 0.374567, 0.584062  # E log cosh ε, and the information of k at 0
_RIDGE = 1e-6  # relative, of the information


class Parents(NamedTuple):
    """Which coordinates scale and shift which, as masks of rows by columns; none of its level.

    ``levels`` are the ends of runs of coordinates, each of which depends on those before alone.
    """

    scale: np.ndarray
    shift: np.ndarray
    levels: tuple[int, ...]


class Scaled(NamedTuple):
    """The map: c, the Cholesky factor L, and rows of a and b, of lines first and then of bends."""

    center: np.ndarray
    factor: np.ndarray
    skew: np.ndarray
    scale: np.ndarray
    shift: np.ndarray

    def of(self, noise: np.ndarray, levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Points of the noise, and log scales."""
        k = np.tanh(self.skew)
        plain = rows_times(noise + k * (bend(noise) - _MEAN_BEND), self.factor.T)
        y, log_scale = np.zeros_like(noise), np.zeros_like(noise)
        first = 0
        for end in levels:
            features, here = bends(y), slice(first, end)
            log_scale[:, here] = rows_times(features, self.scale[here].T)
            moved = self.center[here] + rows_times(features, self.shift[here].T)
            y[:, here] = moved + np.exp(log_scale[:, here]) * plain[:, here]
            first = end
        return y, log_scale

    def log_volume(self, noise: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
        """Log of the volume factor at points of the noise, of these log scales."""
        skewed = np.log1p(np.tanh(self.skew) * np.tanh(noise))
        return (log_scale + skewed).sum(axis=1) + np.sum(np.log(np.diagonal(self.factor)))


def bend(y: np.ndarray) -> np.ndarray:
    """Log of cosh, without overflow."""
    found: np.ndarray = np.logaddexp(y, -y) - math.log(2)
    return found


def bends(y: np.ndarray) -> np.ndarray:
    """Lines, and bends that are lines far out on both sides."""
    return np.concatenate([y, *(bend(y - knot) for knot in KNOTS)], axis=1)


def pulled_through(y: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Slopes by y of slopes by its lines and bends."""
    lines, *bent = np.split(slope, 1 + len(KNOTS), axis=1)
    found: np.ndarray = lines + sum(np.tanh(y - k) * x for k, x in zip(KNOTS, bent, strict=True))
    return found


def columns(parents: np.ndarray) -> np.ndarray:
    """Of lines and bends, those of the parents of a row."""
    found: np.ndarray = np.flatnonzero(np.tile(parents, 1 + len(KNOTS)))
    return found


class Step(NamedTuple):
    """A natural-gradient step, and what it is expected to gain in nats."""

    change: Scaled
    gain: float


def step_of(
    at: Scaled, parents: Parents, noise: np.ndarray, slope: np.ndarray
) -> Step:
    """The step at the map, of slopes of log p at the points of the noise."""
    y, log_scale = at.of(noise, parents.levels)
    k, bent, tilt = np.tanh(at.skew), bend(noise) - _MEAN_BEND, np.tanh(noise)
    skewed = noise + k * bent
    plain, features = rows_times(skewed, at.factor.T), bends(y)
    n, d = y.shape
    stretch = np.exp(log_scale)
    by_scale = np.empty_like(y)
    slope = slope.copy()
    for first, end in zip((0, *parents.levels[:-1])[::-1], parents.levels[::-1], strict=True):
        here = slice(first, end)
        by_scale[:, here] = slope[:, here] * stretch[:, here] * plain[:, here] + 1
        back = rows_times(by_scale[:, here], at.scale[here]) + rows_times(
            slope[:, here], at.shift[here]
        )
        slope += pulled_through(y, back)
    through = slope * stretch
    diagonal = np.diagonal(at.factor)
    of_factor = gram(through, skewed) / n
    pulled = rows_times(through, at.factor)
    of_skew = np.mean(pulled * bent + tilt / (1 + k * tilt), axis=0)
    skew = np.clip(of_skew / ((1 - k**2) * _SKEW), -_LONGEST, _LONGEST)
    # Rows of L in units of its diagonal: information 1 below it, and 2 on it.
    rows = np.tril(of_factor, -1) * diagonal[:, None] ** 2
    gain = 0.5 * float(np.sum((np.tril(of_factor, -1) * diagonal[:, None]) ** 2))
    gain += 0.5 * float(of_skew @ (skew * (1 - k**2)))
    center, scale, shift = np.zeros(d), np.zeros_like(at.scale), np.zeros_like(at.shift)
    log_diagonal = np.zeros(d)
    for i in range(d):
        # Where it is: the constant and its parents, in units of its own noise.
        chosen = columns(parents.shift[i])
        known = np.concatenate([np.ones((n, 1)), features[:, chosen]], axis=1)
        weighted = known / (stretch[:, i, None] * diagonal[i])
        direction = known.T @ slope[:, i] / n
        solved = _solved(weighted.T @ weighted / n, direction)
        center[i], shift[i, chosen] = solved[0], solved[1:]
        gain += 0.5 * float(solved @ direction)
        # How wide: its own noise, and all of its row by its parents.
        chosen = columns(parents.scale[i])
        known = features[:, chosen]
        direction = np.r_[of_factor[i, i] * diagonal[i] + 1, known.T @ by_scale[:, i] / n]
        others = (plain[:, i] - diagonal[i] * skewed[:, i]) / diagonal[i]
        information = np.empty((len(direction),) * 2)
        information[0] = information[:, 0] = 2 * np.r_[1, known.mean(axis=0)]
        information[1:, 1:] = (known * (2 + others**2)[:, None]).T @ known / n
        solved = _solved(information, direction)
        solved *= min(1.0, _LONGEST / max(float(np.abs(solved).max()), 1e-30))
        log_diagonal[i], scale[i, chosen] = solved[0], solved[1:]
        gain += 0.5 * float(solved @ direction)
    np.fill_diagonal(rows, log_diagonal)
    return Step(Scaled(center, rows, skew, scale, shift), gain)


def moved(at: Scaled, change: Scaled, rate: float) -> Scaled:
    """The map after so much of a step, whose diagonal is that of log L."""
    factor = at.factor + rate * np.tril(change.factor, -1)
    log_diagonal = np.log(np.diagonal(at.factor)) + rate * np.diagonal(change.factor)
    np.fill_diagonal(factor, np.exp(log_diagonal))
    return Scaled(
        at.center + rate * change.center,
        factor,
        at.skew + rate * change.skew,
        at.scale + rate * change.scale,
        at.shift + rate * change.shift,
    )


def _solved(information: np.ndarray, direction: np.ndarray) -> np.ndarray:
    size = np.diagonal(information)
    found: np.ndarray = np.linalg.solve(information + _RIDGE * np.diag(size), direction)
    return found
