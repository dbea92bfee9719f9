r"""A normal whose coordinates are scaled and shifted by others: partial non-centering, learned.

In an order in which what scales comes before what is scaled, noise ε makes the point

    y_i = c_i + b_i · f(y_<) + e^{a_i · f(y_<)} (L g)_i,   f(y) = (y, log cosh y),
    g_j = ε_j + tanh(k_j) (log cosh ε_j − E log cosh ε_j).

With a = b = k = 0 it is a normal. With a_i the log scale of an effect, the effect is in units of
its scale, with less of it any form between; log cosh lets slopes differ on two sides, as where
data take over from a prior, and tails too. The Fisher information has a block for each coordinate,
so that natural-gradient steps are small systems of equations.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from equipoise.vi._weights.products import gram, rows_times

_MEAN, _INFORMATION = 0.374567, 0.584062  # of log cosh ε, and of tanh k at 0
_LONGEST = 1.0  # change of a log scale that one step makes
_RIDGE = 1e-6  # relative, of the information


class Parents(NamedTuple):
    """Which columns scale and shift which rows.

    ``levels`` are the ends of runs of coordinates, each of which depends on those before alone.
    """

    scale: np.ndarray
    shift: np.ndarray
    levels: tuple[int, ...]

    @property
    def runs(self) -> list[slice]:
        """The runs, first to last."""
        return [slice(*ends) for ends in itertools.pairwise((0, *self.levels))]


class Scaled(NamedTuple):
    """The map: c, the Cholesky factor L, k, and rows of a and b, lines first and then bends."""

    center: np.ndarray
    factor: np.ndarray
    skew: np.ndarray
    scale: np.ndarray
    shift: np.ndarray

    def points(self, noise: np.ndarray, parents: Parents) -> tuple[np.ndarray, np.ndarray]:
        """Points of the noise, one a row, and log volume factors there."""
        y, log_scale = self.scaled(noise, rows_times(self.skewed(noise), self.factor.T), parents)
        tilt = np.log1p(np.tanh(self.skew) * np.tanh(noise))
        log_volume = np.sum(log_scale + tilt, axis=1) + np.sum(np.log(np.diagonal(self.factor)))
        return y, log_volume

    def skewed(self, noise: np.ndarray) -> np.ndarray:
        """The noise g with different tails on its two sides."""
        skewed: np.ndarray = noise + np.tanh(self.skew) * (_bend(noise) - _MEAN)
        return skewed

    def scaled(
        self, noise: np.ndarray, plain: np.ndarray, parents: Parents
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points, and log scales there, of the noise as L leaves it."""
        y, log_scale = np.zeros_like(noise), np.zeros_like(noise)
        for here in parents.runs:
            features = _features(y)
            log_scale[:, here] = rows_times(features, self.scale[here].T)
            middle = self.center[here] + rows_times(features, self.shift[here].T)
            y[:, here] = middle + np.exp(log_scale[:, here]) * plain[:, here]
        return y, log_scale

    def moved(self, step: "Scaled", rate: float) -> "Scaled":
        """The map after so much of a step, whose diagonal of L is that of its logarithm."""
        factor = self.factor + rate * np.tril(step.factor, -1)
        stretch = np.exp(rate * np.diagonal(step.factor))
        np.fill_diagonal(factor, np.diagonal(self.factor) * stretch)
        moved = [one + rate * other for one, other in zip(self, step, strict=True)]
        return Scaled(*moved)._replace(factor=factor)


def unscaled(factor: np.ndarray) -> Scaled:
    """The normal around 0."""
    d = len(factor)
    return Scaled(np.zeros(d), factor, np.zeros(d), np.zeros((d, 2 * d)), np.zeros((d, 2 * d)))


def _bend(y: np.ndarray) -> np.ndarray:
    """Log cosh, without overflow."""
    bend: np.ndarray = np.logaddexp(y, -y) - math.log(2)
    return bend


def _features(y: np.ndarray) -> np.ndarray:
    return np.concatenate([y, _bend(y)], axis=1)


def natural_step(
    at: Scaled, parents: Parents, noise: np.ndarray, slope: np.ndarray
) -> tuple[Scaled, float]:
    """The natural-gradient step at the map, and what it is expected to gain in nats.

    ``slope`` is that of log p at the points of the noise.
    """
    n, d = noise.shape
    k, tilt, skewed = np.tanh(at.skew), np.tanh(noise), at.skewed(noise)
    plain = rows_times(skewed, at.factor.T)
    y, log_scale = at.scaled(noise, plain, parents)
    features, stretch, size = _features(y), np.exp(log_scale), np.diagonal(at.factor)
    # Slopes by every coordinate with all that it scales and shifts, from the last run to the first.
    slope, by_scale = slope.copy(), np.empty_like(y)
    for here in parents.runs[::-1]:
        by_scale[:, here] = slope[:, here] * stretch[:, here] * plain[:, here] + 1
        back = rows_times(by_scale[:, here], at.scale[here])
        back += rows_times(slope[:, here], at.shift[here])
        slope += back[:, :d] + np.tanh(y) * back[:, d:]
    by_plain = slope * stretch
    by_skew = rows_times(by_plain, at.factor) * (_bend(noise) - _MEAN) + tilt / (1 + k * tilt)
    by_skew = np.mean(by_skew, axis=0)
    by_factor = gram(by_plain, skewed) / n
    step = unscaled(np.tril(by_factor, -1) * size[:, None] ** 2)
    step.skew[:] = np.clip(by_skew / ((1 - k**2) * _INFORMATION), -_LONGEST, _LONGEST)
    gain = np.sum(np.tril(by_factor, -1) * step.factor) + by_skew @ (step.skew * (1 - k**2))
    others = plain / size - skewed
    for i in range(d):
        # Where it is: a constant and what shifts it, in units of its own noise.
        chosen = np.flatnonzero(np.tile(parents.shift[i], 2))
        known = np.concatenate([np.ones((n, 1)), features[:, chosen]], axis=1)
        weighted = known / (stretch[:, i, None] * size[i])
        by_place = known.T @ slope[:, i] / n
        found = _solved(weighted.T @ weighted / n, by_place)
        step.center[i], step.shift[i, chosen] = found[0], found[1:]
        # How wide it is: its own noise, and what scales all of its row of L.
        chosen = np.flatnonzero(np.tile(parents.scale[i], 2))
        known = features[:, chosen]
        by_width = np.r_[by_factor[i, i] * size[i] + 1, known.T @ by_scale[:, i] / n]
        information = np.empty((len(by_width), len(by_width)))
        information[0] = information[:, 0] = 2 * np.r_[1, known.mean(axis=0)]
        information[1:, 1:] = (known * (2 + others[:, i, None] ** 2)).T @ known / n
        wider = _solved(information, by_width)
        wider *= min(1.0, _LONGEST / max(float(np.max(abs(wider))), _LONGEST))
        step.factor[i, i], step.scale[i, chosen] = wider[0], wider[1:]
        gain += found @ by_place + wider @ by_width
    return step, 0.5 * float(gain)


def _solved(information: np.ndarray, slope: np.ndarray) -> np.ndarray:
    ridge = _RIDGE * np.diag(np.diagonal(information))
    solved: np.ndarray = np.linalg.solve(information + ridge, slope)
    return solved
