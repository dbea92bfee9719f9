"""What measurements say about draws: trusted, or not and why."""

import enum
import math
from typing import NamedTuple

import numpy as np

from equipoise.vi._weights.diagnose import Diagnostics
from equipoise.vi._weights.psis import log_sum
from equipoise.vi._weights.weighted import Weighted, moments

_MIN_EFFECTIVE = 400.0  # Vehtari et al. 2021, section 4
_MAX_MEAN_ERROR = 0.05  # of an sd: five of these stay within a quarter of an sd
_MAX_SD_ERROR = 0.025  # relative: four of these stay within a tenth
_KHAT_ERROR = 0.1  # standard error of k̂ from the tail of 8192 draws, (1 + k) / √272
_SAME_MEAN, _SAME_SD = 0.1, 0.05  # half of what a second opinion may find before it is a failure
_EQUAL_DRAWS, _MAX_EQUAL_ERROR = 8192, 0.05  # two such errors stay within a tenth
_LOST, _LEAST_LOST = 4.0, 0.05  # standard errors, and nats, of evidence that is really lost
_CHANCE = 1e-5  # that less evidence is there than is said to be proven
_CAPS = 2.0 ** np.arange(-12, -2)  # of all draws: the most that one of them may count for
_MARGIN = 1.2  # on draws that should suffice, since an error is an estimate too


class Verdict(enum.StrEnum):
    """Why the draws of a fit may be used or not; the first that holds is the verdict.

    Each value is a sentence, in which ``fit.reason`` fills the numbers in; ``place`` is a
    coordinate by its path in the example, and what would help follows. Only ``TRUSTED`` is good
    news.
    """

    NOT_FINITE = "Not trusted: {problem}; these are the last good params."
    IMPROPER = "Not trusted: the log density looks unbounded or improper, as {problem}."
    NOT_CONVERGED = "Not trusted: the fit has not converged; give it more `num_steps`."
    HEAVY_TAIL = (
        "Not trusted: the Pareto shape of the importance weights is {khat:.2f}, "
        "above {threshold:.2f}{place}."
    )
    FEW_DRAWS = (
        "Not trusted: the draws are worth {effective_sample_size:.0f}, fewer than "
        f"{_MIN_EFFECTIVE:.0f}."
    )
    MEAN_ERROR = (
        "Not trusted: a mean has a standard error of {mean_error:.3f} sd, "
        f"above {_MAX_MEAN_ERROR}{{place}}."
    )
    SD_ERROR = (
        "Not trusted: an sd has a relative standard error of {sd_error:.3f}, "
        f"above {_MAX_SD_ERROR}{{place}}."
    )
    DISAGREEMENT = (
        "Not trusted: draws made another way have other moments: "
        "a mean {mean:.2f} sd away, an sd off by {sd:.0%}{place}."
    )
    ELSEWHERE = "Not trusted: there is mass that the draws do not reach, {mean:.0f} sd away{place}."
    RARE = (
        f"Not trusted: of {_EQUAL_DRAWS} draws with equal weights "
        "an sd is off by {sd:.0%}{place}, as rare ones make it."
    )
    TRUSTED = (
        "Trusted: k̂ is {khat:.2f} (limit {threshold:.2f}) and the draws are worth "
        "{effective_sample_size:.0f} independent ones."
    )


def verdict(found: Diagnostics) -> Verdict:
    """The first of the measurements that forbids to use weighted draws."""
    checks = {
        Verdict.HEAVY_TAIL: found.khat <= found.threshold,
        Verdict.FEW_DRAWS: found.effective_sample_size >= _MIN_EFFECTIVE,
        Verdict.MEAN_ERROR: found.mean_error <= _MAX_MEAN_ERROR,
        Verdict.SD_ERROR: found.sd_error <= _MAX_SD_ERROR,
    }
    # A nan compares false, so it fails.
    failed = [name for name, passed in checks.items() if not bool(passed)]
    return failed[0] if failed else Verdict.TRUSTED


def draws_needed(found: Diagnostics) -> int:
    """Draws whose errors should suffice; those that there are where more would change no verdict.

    Errors fall with the square root of the number of draws. A tail too heavy stays so, and one
    that may be, with k̂ within its error of the limit, has errors that are too small themselves.
    """
    number = int(found.num_draws)
    if not found.khat <= found.threshold - _KHAT_ERROR:
        return number
    if verdict(found) not in (Verdict.FEW_DRAWS, Verdict.MEAN_ERROR, Verdict.SD_ERROR):
        return number
    excess = max(
        _MIN_EFFECTIVE / float(found.effective_sample_size),
        float(found.mean_error / _MAX_MEAN_ERROR) ** 2,
        float(found.sd_error / _MAX_SD_ERROR) ** 2,
    )
    return math.ceil(_MARGIN * number * excess) if math.isfinite(excess) else number


def is_precise(found: Diagnostics) -> bool:
    """Whether all is so far from what forbids the draws that more of them change no verdict."""
    return bool(
        found.khat <= found.threshold - _KHAT_ERROR
        and found.effective_sample_size >= 4 * _MIN_EFFECTIVE
        and found.mean_error <= 0.5 * _MAX_MEAN_ERROR
        and found.sd_error <= 0.5 * _MAX_SD_ERROR
    )


def efficiency(found: Diagnostics) -> float:
    """Share of the draws that are effective."""
    return float(found.effective_sample_size / found.num_draws)


def is_better(one: Diagnostics, other: Diagnostics) -> bool:
    """Whether the first weighted draws are the ones to use."""
    if bool(one.khat <= one.threshold) != bool(other.khat <= other.threshold):
        return bool(one.khat <= one.threshold)
    return efficiency(one) > efficiency(other)


def misses(found: Diagnostics, other: Weighted) -> bool:
    """Whether other draws found mass that these have not, as evidence is lost with what is missed.

    Weights see only where draws fall: those that miss a mode have harmless weights. Good draws are
    said to miss some in fewer than one case of 10 000.
    """
    lost = _proven(other) - float(found.log_evidence)
    return lost > max(_LOST * float(found.log_evidence_error), _LEAST_LOST)


def _proven(weighted: Weighted) -> float:
    """Log of the evidence that there is at least, whatever tail the weights have.

    Of weights that are capped the mean is no larger, and its error has a bound for every number of
    draws (Maurer and Pontil 2009, theorem 4); the best of several caps counts.
    """
    log_ratios = np.asarray(weighted.log_ratios, float)
    log_ratios = np.where(np.isfinite(log_ratios), log_ratios, -np.inf)
    n, mean = len(log_ratios), float(log_sum(log_ratios)) - math.log(len(log_ratios))
    capped = np.minimum(np.exp(log_ratios - mean)[:, None], n * _CAPS)
    luck = math.log(2 * len(_CAPS) / _CHANCE)
    error = np.sqrt(2 * luck / n * np.var(capped, axis=0)) + 7 / 3 * luck * _CAPS
    least = np.max(np.mean(capped, axis=0) - error)
    return mean + float(np.log(np.maximum(least, np.finfo(float).tiny)))


class Doubt(NamedTuple):
    """How far moments of two weightings are apart, in sds and relatively, and where the most."""

    mean: float
    sd: float
    place: int

    def __bool__(self) -> bool:
        return not (self.mean <= _SAME_MEAN and self.sd <= _SAME_SD)


NO_DOUBT = Doubt(0.0, 0.0, 0)


def disagreement(one: Weighted, other: Weighted) -> Doubt:
    """What two weightings of the same target say differently.

    Weights see only where draws fall: a q that ends inside the target has harmless weights. So
    the draws of q are held against those of a proposal with heavier tails.
    """
    first, second = moments(one.draws, one.log_weights), moments(other.draws, other.log_weights)
    mean = np.abs(first.mean - second.mean) / second.sd
    sd = np.abs(first.sd / second.sd - 1)
    place = int(np.argmax(np.maximum(mean / _SAME_MEAN, sd / _SAME_SD)))
    return Doubt(float(np.max(mean)), float(np.max(sd)), place)


def rarity(weighted: Weighted) -> Doubt:
    """The error that an sd has in draws with equal weights, where it is too large.

    Weighted draws may have far more of a tail than draws of the target itself.
    """
    weights = np.exp(weighted.log_weights)[:, None]
    squares = (weighted.draws - np.sum(weights * weighted.draws, axis=0)) ** 2
    variance = np.sum(weights * squares, axis=0)
    spread = np.sum(weights * (squares - variance) ** 2, axis=0)
    errors = (spread / _EQUAL_DRAWS) ** 0.5 / (2 * variance)
    place = int(np.argmax(errors))
    return Doubt(0.0, float(errors[place]), place) if errors[place] > _MAX_EQUAL_ERROR else NO_DOUBT


def worst(of: Verdict, weighted: Weighted) -> int:
    """The coordinate whose mean, or else whose sd, has the largest standard error."""
    found = moments(weighted.draws, weighted.log_weights)
    errors = found.mean_error if of is Verdict.MEAN_ERROR else found.sd_error
    return int(np.argmax(errors / found.sd))


def sentence(of: Verdict, found: Diagnostics, place: str = "", **details: float | str) -> str:
    """The verdict with the numbers that it rests on, and where it was found."""
    numbers = {name: float(value) for name, value in vars(found).items()}
    return of.value.format(**numbers, **details, place=place and f" at {place}")
