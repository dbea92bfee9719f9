"""Tails along coordinates that draws do not reach, as on a ridge that bends away from them.

Weights see only where draws fall, and a thin tail may hold much of a variance. So each coordinate
is moved six sds away, gradients lead the others to where they are likely there, and the mass around
that place, told by draws of its own, is held against the mass that the draws have there.
"""

from collections.abc import Callable

import numpy as np

from equipoise.vi._weights.products import transported
from equipoise.vi._weights.verdict import NO_DOUBT, Doubt
from equipoise.vi._weights.weighted import Weighted

_AWAY, _STEPS = 6.0, 4  # sds, and steps of the others
_MATTERS = 0.02  # of a variance, that a tail holds
_LEAST_SEEN, _LEAST_DRAWS = 0.1, 4  # of the mass that a tail has, and draws that it is worth
_LOCAL_DRAWS, _BLOCKS, _MOST = 1024, 8, 8  # around a place, for a median; and places


def log_mass(ratios: np.ndarray) -> float:
    """Log of the mass that draws tell by log p − log q; a median of blocks, as tails are heavy."""
    blocks = np.where(np.isfinite(ratios), ratios, -np.inf).reshape(_BLOCKS, -1)
    return float(np.median(np.logaddexp.reduce(blocks, axis=1)))


@np.errstate(all="ignore")  # what is not finite has no mass
def unseen_tail(
    values: Callable[[np.ndarray], np.ndarray],
    gradients: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    normal: tuple[np.ndarray, np.ndarray],
    weighted: Weighted,
    rng: np.random.Generator,
) -> Doubt:
    """Where draws lack a tail of a coordinate, in sds of a normal like q."""
    mean, factor = normal
    d, sds = len(mean), np.linalg.norm(factor, axis=1)
    axis, away = np.repeat(np.arange(d), 2), np.tile([_AWAY, -_AWAY], d)
    weights = np.exp(np.asarray(weighted.log_weights, float))
    z = (np.asarray(weighted.draws, float) - mean) / sds
    seen = np.array([weights @ _beside(z[:, j], t) for j, t in zip(axis, away, strict=True)])
    places, heights = _ridge(gradients, normal, axis, away)
    expected = np.exp(np.minimum(heights - values(mean[None])[0], 0))
    doubtful = np.flatnonzero(_is_missed(expected, seen))
    doubtful = doubtful[np.argsort(-expected[doubtful])][:_MOST]
    if not len(doubtful):
        return NO_DOUBT

    def ratios(center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log p over the density of draws around a center, and where these are."""
        noise = rng.standard_normal((_LOCAL_DRAWS, d))
        points = transported(center, factor, noise)
        return values(points) + 0.5 * np.sum(noise**2, axis=1), (points - mean) / sds

    whole = log_mass(ratios(mean)[0])
    for k in doubtful:
        found, z = ratios(places[k])
        there = log_mass(np.where(_beside(z[:, axis[k]], away[k]), found, -np.inf))
        share = np.exp(min(there - whole, 0.0))
        worth = share * float(weighted.effective_sample_size) > _LEAST_DRAWS
        if worth and _is_missed(share, seen[k]):
            return Doubt(_AWAY, 0.0, int(axis[k]))
    return NO_DOUBT


def _beside(z: np.ndarray, away: float) -> np.ndarray:
    return np.abs(z - away) < 1


def _is_missed(share: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Whether a tail that matters has far less mass among the draws than its own."""
    return (_AWAY**2 * share > _MATTERS) & (seen < _LEAST_SEEN * share)


def _ridge(
    gradients: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    normal: tuple[np.ndarray, np.ndarray],
    axis: np.ndarray,
    away: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Likely places with one coordinate so far away, and their heights, by steps in q's metric."""
    mean, factor = normal
    along = factor @ factor[axis].T / np.linalg.norm(factor, axis=1)[axis]  # of all, for one sd
    along = along.T
    here = there = mean + away[:, None] * along
    height, rate = np.full((len(here), 1), -np.inf), np.ones((len(here), 1))
    pull = np.zeros_like(here)
    for _ in range(_STEPS):
        new, slope = gradients(there)
        rise = slope @ factor @ factor.T - along * np.sum(along * slope, axis=1, keepdims=True)
        better = (new[:, None] >= height) & np.all(np.isfinite(slope), axis=1, keepdims=True)
        height, here = np.where(better, new[:, None], height), np.where(better, there, here)
        pull, rate = np.where(better, rise, pull), np.where(better, 1.0, rate / 4)
        there = here + rate * pull
    return here, height[:, 0]
