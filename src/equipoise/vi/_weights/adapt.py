"""Adaptive importance sampling: a mixture of Student t that learns the target from its draws.

Round components have the same tails in all directions. Where coordinates have heavy tails of their
own, these are longest along the axes, and one component of independent coordinates has them too.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from equipoise.vi._families.draws import AnyArray
from equipoise.vi._weights.products import gram, transported
from equipoise.vi._weights.weighted import weigh

MAX_ADAPTED = 50  # coordinates above which a mixture of Student t wastes nearly all draws
_DEGREES = 6  # tails heavier than those of most targets, with four moments
_SMALLEST_WEIGHT = 0.01
# Shares of effective draws: of a proposal that is not where the target is, and of an ideal one.
_FAR, _EXCELLENT = 0.05, 0.9
_DEFENCE, _WIDER = 0.1, 2.0  # share of the wide component, and how much wider it is

_Proposed: TypeAlias = tuple[np.ndarray, np.ndarray]  # draws and their log densities


class _Mixture(NamedTuple):
    """Student t components: weights, means, Cholesky factors of the scale matrices.

    The last weight is that of independent coordinates with their own ``centers`` and ``scales``.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    centers: np.ndarray
    scales: np.ndarray


def _log_constant(d: int) -> float:
    """Of a Student t density in d dimensions."""
    gammas = math.lgamma((_DEGREES + d) / 2) - math.lgamma(_DEGREES / 2)
    return gammas - 0.5 * d * math.log(_DEGREES * math.pi)


def _component_log_probs(mixture: _Mixture, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of weight times density for each component, and Mahalanobis distances of round ones.

    Both have a row for each of them and a column for each draw.
    """
    d = draws.shape[1]
    pairs = zip(mixture.means, np.linalg.inv(mixture.factors), strict=True)
    whitened = [transported(-(inverse @ mean), inverse, draws) for mean, inverse in pairs]
    distance = np.stack([np.einsum("ni,ni->n", white, white) for white in whitened])
    volume = np.sum(np.log(np.diagonal(mixture.factors, axis1=1, axis2=2)), axis=1)
    tail = -0.5 * (_DEGREES + d) * np.log1p(distance / _DEGREES)
    square = ((draws - mixture.centers) / mixture.scales) ** 2
    apart = -0.5 * (_DEGREES + 1) * np.sum(np.log1p(square / _DEGREES), axis=1)
    apart += d * _log_constant(1) - np.sum(np.log(mixture.scales))
    round_ones = _log_constant(d) - volume[:, None] + tail
    return np.log(mixture.weights)[:, None] + np.concatenate([round_ones, apart[None]]), distance


def _log_sums(log_terms: np.ndarray) -> np.ndarray:
    """Log of the sum of exponentials over the components."""
    largest = np.max(log_terms, axis=0)
    return largest + np.log(np.sum(np.exp(log_terms - largest), axis=0))


def _sample(rng: np.random.Generator, mixture: _Mixture, num_samples: int) -> np.ndarray:
    """Draws, stratified over the components."""
    d = mixture.means.shape[1]
    levels = (np.arange(num_samples) + 0.5) / num_samples
    component = np.searchsorted(np.cumsum(mixture.weights), levels)
    component = np.minimum(component, len(mixture.weights) - 1)
    noise = rng.standard_normal((num_samples, d))
    # Components come one after the other, that of independent coordinates last.
    *parts, apart = np.split(noise, np.searchsorted(component, np.arange(1, len(mixture.weights))))
    drawn = [
        transported(mean, factor, part * _spread(rng, (len(part), 1)))
        for mean, factor, part in zip(mixture.means, mixture.factors, parts, strict=True)
    ]
    drawn.append(mixture.centers + mixture.scales * apart * _spread(rng, apart.shape))
    return np.concatenate(drawn)


def _spread(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """What makes a normal a Student t."""
    return np.sqrt(_DEGREES / rng.chisquare(_DEGREES, shape))


def _temper(log_ratios: np.ndarray, wanted: float) -> np.ndarray:
    """Log weights raised to the largest power ≤ 1 that keeps ``wanted`` effective draws.

    The largest log ratio is 0.
    """

    def effective(power: float) -> float:
        weights = np.exp(power * log_ratios)
        return float(np.sum(weights) ** 2 / np.sum(weights**2))

    power, high = (1.0, 1.0) if effective(1.0) >= wanted else (0.0, 1.0)
    while high - power > 1e-6:
        middle = 0.5 * (power + high)
        power, high = (middle, high) if effective(middle) >= wanted else (power, middle)
    return power * log_ratios - np.log(np.sum(np.exp(power * log_ratios)))


def _improve(mixture: _Mixture, draws: AnyArray, log_ratios: AnyArray) -> _Mixture:
    """One EM step towards the weighted draws, which lowers KL(target ‖ mixture)."""
    n, d = draws.shape
    log_ratios = np.where(np.isfinite(log_ratios), log_ratios, np.finfo(float).min / 4)
    log_weights = _temper(log_ratios - np.max(log_ratios), min(30.0 * d, n / 4))
    joint, distance = _component_log_probs(mixture, draws)
    share = np.exp(joint + (log_weights - _log_sums(joint)))
    pull = share[:-1] * (_DEGREES + d) / (_DEGREES + distance)
    weights = np.sum(share, axis=1)
    tiny = np.finfo(float).tiny ** 0.5
    total = np.maximum(np.sum(pull, axis=1), tiny)[:, None]
    means = (pull @ draws) / total
    squares = np.stack([gram(one[:, None] * draws, draws) for one in pull])
    scatter = squares - total[:, None] * means[:, :, None] * means[:, None]
    # A component with little weight leans on the identity, the shape of the first proposal.
    prior = 10.0 * (d + 1) / n
    scatter = (scatter + prior * np.eye(d)) / (weights[:-1] + prior)[:, None, None]
    square = ((draws - mixture.centers) / mixture.scales) ** 2
    pulls = share[-1][:, None] * (_DEGREES + 1) / (_DEGREES + square)
    centers = np.sum(pulls * draws, axis=0) / (np.sum(pulls, axis=0) + prior)
    scales = (np.sum(pulls * (draws - centers) ** 2, axis=0) + prior) / (weights[-1] + prior)
    weights = np.maximum(weights, _SMALLEST_WEIGHT)
    return _Mixture(
        weights / np.sum(weights), means, np.linalg.cholesky(scatter), centers, scales**0.5
    )


def first_mixture(
    rng: np.random.Generator,
    components: int,
    means: np.ndarray,
    factors: np.ndarray,
    elbos: np.ndarray,
) -> _Mixture:
    """Equal parts of unit components scattered around 0, and other modes by their ELBOs.

    The component of independent coordinates has another such part.
    """
    d = means.shape[1]
    scattered = 0.7 * rng.standard_normal((components, d))
    scattered[0] = 0
    eye = np.tile(np.eye(d), (components, 1, 1))
    ours = np.full(components, 1.0 / components)
    total = np.concatenate([ours, np.maximum(np.exp(elbos), _SMALLEST_WEIGHT), ours[:1]])
    return _Mixture(
        total / np.sum(total),
        np.concatenate([scattered, means]),
        np.concatenate([eye, factors]),
        np.zeros(d),
        np.ones(d),
    )


def propose(rng: np.random.Generator, mixture: _Mixture, number: int) -> _Proposed:
    """Fresh draws and their log densities."""
    draws = _sample(rng, mixture, number)
    return draws, log_density_of(mixture, draws)


def log_density_of(mixture: _Mixture, points: np.ndarray) -> np.ndarray:
    """Log densities at the points, a row each."""
    return _log_sums(_component_log_probs(mixture, points)[0])


def moments_of(mixture: _Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean of all round components together, and the Cholesky factor of their scale."""
    weights, means, factors = mixture.weights[:-1], mixture.means, mixture.factors
    weights = weights / np.sum(weights)
    mean = weights @ means
    parts = np.concatenate([factors, (means - mean)[:, :, None]], axis=2)
    parts = parts * weights[:, None, None] ** 0.5
    return mean, np.linalg.cholesky(np.einsum("kis,kjs->ij", parts, parts))


def defended(mixture: _Mixture) -> _Mixture:
    """The same with one wide component over all, for what the others have not met."""
    mean, whole = moments_of(mixture)
    rest = (1 - _DEFENCE) * mixture.weights
    return mixture._replace(
        weights=np.r_[rest[:-1], _DEFENCE, rest[-1]],
        means=np.concatenate([mixture.means, mean[None]]),
        factors=np.concatenate([mixture.factors, _WIDER * whole[None]]),
    )


def adapt(
    log_p: Callable[[np.ndarray], np.ndarray],
    mixture: _Mixture,
    rng: np.random.Generator,
    *,
    num_samples: int,
    num_rounds: int,
    patience: int = 3,
) -> tuple[_Mixture, int]:
    """Rounds of sampling and EM: the best mixture, and how many rounds it took.

    ``log_p`` takes the draws of a round, a row each. Adapts until the effective sample size has not
    grown by a tenth for ``patience`` rounds, nor the density that a proposal far away has met.
    Draws to use are fresh ones, independent of those that the mixture was chosen by.
    """
    best, best_efficiency, reached, best_round, used = mixture, 0.0, 0.0, 0, 0
    evidence = -np.inf
    for index in range(num_rounds):
        draws, log_q = propose(rng, mixture, num_samples)
        weighted, used = weigh(draws, log_p(draws), log_q), index + 1
        efficiency = float(weighted.effective_sample_size) / num_samples
        if not weighted.khat < 1:
            efficiency *= 0.1
        # A proposal that is not where the target is has no efficiency to compare.
        found = float(np.max(weighted.log_ratios))
        nearer = efficiency < _FAR and found > evidence + 1
        evidence = max(found, evidence)
        if nearer or efficiency > best_efficiency:
            best, best_efficiency = mixture, efficiency
        if nearer or efficiency > 1.1 * reached:
            reached, best_round = efficiency, index
        if index - best_round >= patience or efficiency > _EXCELLENT:
            break
        mixture = _improve(mixture, weighted.draws, weighted.log_ratios)
    return best, used
