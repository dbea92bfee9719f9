"""Adaptive importance sampling: a mixture of Student t that learns the target from its draws."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from equipoise.vi._families.draws import AnyArray
from equipoise.vi._weights.products import gram, transported
from equipoise.vi._weights.weighted import weigh

_DEGREES = 6  # tails heavier than those of most targets, with four moments
_SMALLEST_WEIGHT = 0.01
_EXCELLENT = 0.9  # share of effective draws that ends the adaptation
_DEFENCE, _WIDER = 0.1, 2.0  # share of the wide component, and how much wider it is

_Proposed: TypeAlias = tuple[np.ndarray, np.ndarray]  # draws and their log densities


class _Mixture(NamedTuple):
    """Student t components: weights, means, Cholesky factors of the scale matrices."""

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray


def _component_log_probs(mixture: _Mixture, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of weight times density, and Mahalanobis distance, each (components, draws)."""
    d = draws.shape[1]
    constant = (
        math.lgamma((_DEGREES + d) / 2)
        - math.lgamma(_DEGREES / 2)
        - 0.5 * d * math.log(_DEGREES * math.pi)
    )
    pairs = zip(mixture.means, np.linalg.inv(mixture.factors), strict=True)
    whitened = np.stack([transported(-(inverse @ mean), inverse, draws) for mean, inverse in pairs])
    distance = np.einsum("kni,kni->kn", whitened, whitened)
    volume = np.sum(np.log(np.diagonal(mixture.factors, axis1=1, axis2=2)), axis=1)
    tail = -0.5 * (_DEGREES + d) * np.log1p(distance / _DEGREES)
    return (np.log(mixture.weights) + constant - volume)[:, None] + tail, distance


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
    spread = np.sqrt(_DEGREES / rng.chisquare(_DEGREES, (num_samples, 1)))
    noise = rng.standard_normal((num_samples, d)) * spread
    # Components come one after the other.
    parts = np.split(noise, np.searchsorted(component, np.arange(1, len(mixture.weights))))
    return np.concatenate(
        [
            transported(m, w, e)
            for m, w, e in zip(mixture.means, mixture.factors, parts, strict=True)
        ]
    )


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
    pull = share * (_DEGREES + d) / (_DEGREES + distance)
    weights = np.sum(share, axis=1)
    tiny = np.finfo(float).tiny ** 0.5
    total = np.maximum(np.sum(pull, axis=1), tiny)[:, None]
    means = (pull @ draws) / total
    squares = np.stack([gram(one[:, None] * draws, draws) for one in pull])
    scatter = squares - total[:, None] * means[:, :, None] * means[:, None]
    # A component with little weight leans on the identity, the shape of the first proposal.
    prior = 10.0 * (d + 1) / n
    scatter = (scatter + prior * np.eye(d)) / (weights + prior)[:, None, None]
    weights = np.maximum(weights, _SMALLEST_WEIGHT)
    return _Mixture(weights / np.sum(weights), means, np.linalg.cholesky(scatter))


def first_mixture(
    rng: np.random.Generator,
    components: int,
    means: np.ndarray,
    factors: np.ndarray,
    elbos: np.ndarray,
) -> _Mixture:
    """Equal parts of unit components scattered around 0, and other modes by their ELBOs."""
    d = means.shape[1]
    scattered = 0.7 * rng.standard_normal((components, d))
    scattered[0] = 0
    eye = np.tile(np.eye(d), (components, 1, 1))
    ours = np.full(components, 1.0 / components)
    total = np.concatenate([ours, np.maximum(np.exp(elbos), _SMALLEST_WEIGHT)])
    return _Mixture(
        total / np.sum(total), np.concatenate([scattered, means]), np.concatenate([eye, factors])
    )


def propose(rng: np.random.Generator, mixture: _Mixture, number: int) -> _Proposed:
    """Fresh draws and their log densities."""
    draws = _sample(rng, mixture, number)
    return draws, _log_sums(_component_log_probs(mixture, draws)[0])


def defended(mixture: _Mixture) -> _Mixture:
    """The same with one wide component over all, for what the others have not met."""
    weights, means, factors = mixture
    mean = weights @ means
    parts = (
        np.concatenate([factors, (means - mean)[:, :, None]], axis=2)
        * weights[:, None, None] ** 0.5
    )
    whole = np.linalg.cholesky(np.einsum("kis,kjs->ij", parts, parts))
    return _Mixture(
        np.append((1 - _DEFENCE) * weights, _DEFENCE),
        np.concatenate([means, mean[None]]),
        np.concatenate([factors, _WIDER * whole[None]]),
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

    ``log_p`` takes the draws of a round, one a row. Adapts until the effective sample size has not
    grown by a tenth for ``patience`` rounds. Draws to use are fresh ones, independent of those
    that the mixture was chosen by.
    """
    best, best_efficiency, reached, best_round, used = mixture, 0.0, 0.0, 0, 0
    for index in range(num_rounds):
        draws, log_q = propose(rng, mixture, num_samples)
        weighted, used = weigh(draws, log_p(draws), log_q), index + 1
        efficiency = float(weighted.effective_sample_size) / num_samples
        if not weighted.khat < 1:
            efficiency *= 0.1
        if efficiency > best_efficiency:
            best, best_efficiency = mixture, efficiency
        if efficiency > 1.1 * reached:
            reached, best_round = efficiency, index
        if index - best_round >= patience or efficiency > _EXCELLENT:
            break
        mixture = _improve(mixture, weighted.draws, weighted.log_ratios)
    return best, used
