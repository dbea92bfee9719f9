"""What would help where a fit is not trusted: the coordinate at fault, and the remedy for it."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from equipoise.vi._weights.adapt import MAX_ADAPTED
from equipoise.vi._weights.diagnose import Diagnostics
from equipoise.vi._weights.verdict import Doubt, Verdict, draws_needed, sentence, verdict, worst
from equipoise.vi._weights.weighted import Weighted

_TAIL = 0.01  # share of the draws, with the largest ratios, that show what q misses
_FAR = 10.0 ** np.arange(8)  # units of length at which a ray is looked at
_UNITS = 1.0, 1e6  # of length, so that neither a narrow nor a runaway q sets it
_MAX_AXES, _MAX_NUMBERS = 200, 2**22  # that rays go along, and of all points on them
_AROUND = 0.1  # of the start, where rays begin
_COLLAPSED = 0.8  # power of ε: a q so narrow for its place has no digits left
_CLIMBING = 40  # steps after which an ELBO that does not slow down has no end in sight
ENOUGH = 163_840  # evaluations with which better draws are found, where they are found at all
_ANOTHER = "Another parameterization of it, or another `family`, would help."
_MORE = (
    "Another parameterization of it, another `family`, or more draws may help: "
    f"max_evaluations={ENOUGH:_}."
)

_LogP: TypeAlias = Callable[[np.ndarray], np.ndarray]
_Normal: TypeAlias = tuple[np.ndarray, np.ndarray]  # mean and a factor of the covariance


class Case(NamedTuple):
    """What a verdict was made of: the draws to use, those of q, a normal like q, and the fit."""

    verdict: Verdict
    problem: str
    found: Diagnostics
    weighted: Weighted
    of_q: Weighted
    doubt: Doubt
    normal: _Normal | None
    center: np.ndarray
    history: np.ndarray


class Explained(NamedTuple):
    """The final verdict, and its sentence with what would help."""

    verdict: Verdict
    sentence: str


def explained(
    case: Case,
    log_p: _LogP,
    rng: np.random.Generator,
    path: Callable[[int], str],
    budget: float,
    each: float = 1.0,
) -> Explained:
    """The verdict with the coordinate that it is about, by its path, and what would help there.

    ``budget`` are the evaluations that there were, and ``each`` those that one more draw takes, inf
    where more would make none.
    """
    said, found, doubt = case.verdict, case.found, case.doubt
    problem, place, remedy = case.problem, "", ""
    if said in (Verdict.NOT_FINITE, Verdict.NOT_CONVERGED, Verdict.HEAVY_TAIL):
        endless = _endless(case, log_p, rng)
        lost = np.asarray(~np.isfinite(case.of_q.log_ratios))
        if endless is not None:
            evidence, along = endless
            said, problem = Verdict.IMPROPER, f"{evidence} {path(along)}"
            remedy = f"Check its sign, and give {path(along)} a prior or a `support`."
        elif lost.any():
            where = path(_farthest(np.asarray(case.of_q.draws), lost))
            remedy = (
                f"The log density is not finite at {np.mean(lost):.2g} of the draws of q, "
                f"which a `support` for {where} would keep inside."
            )
        elif said is Verdict.HEAVY_TAIL:
            more = budget < ENOUGH and len(case.center) <= MAX_ADAPTED
            place, remedy = path(_missed(case.of_q)), _MORE if more else _ANOTHER
    elif said in (Verdict.DISAGREEMENT, Verdict.ELSEWHERE):
        place, remedy = path(doubt.place), _ANOTHER
    elif said is Verdict.RARE:
        place, remedy = path(doubt.place), "The weights of `fit.weighted` show it."
    elif said is not Verdict.TRUSTED:
        place, remedy = path(worst(said, case.weighted)), _ANOTHER
    missing = draws_needed(found) - int(found.num_draws)
    if said is verdict(found) and missing > 0 and each < math.inf:
        number = rounded(math.ceil(budget + missing * each))
        remedy = f"More draws would help: max_evaluations={number:_}."
    words = sentence(said, found, place, problem=problem, mean=doubt.mean, sd=doubt.sd)
    return Explained(said, f"{words} {remedy}".rstrip())


def rounded(number: int) -> int:
    """Two digits of it, upwards."""
    unit = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // unit) * unit


def _missed(weighted: Weighted) -> int:
    """The coordinate along which the draws that q has too few of are farthest out."""
    ratios = np.where(np.isfinite(weighted.log_ratios), weighted.log_ratios, -np.inf)
    most = np.argsort(ratios)[-max(int(_TAIL * len(ratios)), 1) :]
    return _farthest(np.asarray(weighted.draws), most)


def _farthest(draws: np.ndarray, chosen: np.ndarray) -> int:
    """The coordinate that sets these draws apart from the others."""
    squares = np.mean((draws[chosen] - draws.mean(axis=0)) ** 2, axis=0)
    return int(np.argmax(squares / np.maximum(draws.var(axis=0), np.finfo(float).tiny)))


def _endless(case: Case, log_p: _LogP, rng: np.random.Generator) -> tuple[str, int] | None:
    """What shows that a density has no finite integral, and along which coordinate."""
    d = len(case.center)
    bases = case.center + _AROUND * rng.standard_normal((2, d))
    mean, factor = case.normal or (case.center, np.eye(d))
    along = _rising(log_p, bases, mean, factor)
    if along is not None:
        return "it does not fall off far out along", along
    sds, eps = np.linalg.norm(factor, axis=1), float(np.finfo(case.of_q.draws.dtype).eps)
    narrow = sds / np.maximum(np.abs(mean), np.finfo(float).tiny)
    for weighted in (case.of_q, case.weighted):
        infinite = np.asarray(weighted.draws)[np.isposinf(weighted.log_ratios)]
        if len(infinite):
            return "it is infinite in places along", int(np.argmin(np.std(infinite, axis=0) / sds))
    if np.min(narrow) < eps**_COLLAPSED:
        return "it rises towards a point along", int(np.argmin(narrow))
    if case.verdict is Verdict.NOT_CONVERGED and _climbs(case.history):
        return "its ELBO climbs without end, with q the widest along", _widest(factor)[0]
    return None


def _widest(factor: np.ndarray) -> np.ndarray:
    return np.argsort(-np.linalg.norm(factor, axis=1))


def _climbs(history: np.ndarray) -> bool:
    """Whether steps gain as much in the end as they did before."""
    quarter = len(history) // 4
    if len(history) < _CLIMBING:
        return False
    before, middle, last = history[[-2 * quarter - 1, -quarter - 1, -1]]
    return bool(last - middle > max(0.9 * (middle - before), 1.0))


def _rising(log_p: _LogP, bases: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> int | None:
    """The coordinate along which t·p(t) does not fall far out; None where rays show none.

    Rays begin at several points, as one may lie on a ridge of no volume, and go along axes, those
    where q is widest first, and to where q went and stretches.
    """
    d, widest = len(mean), _widest(factor)
    axes = widest[: min(_MAX_AXES, max(_MAX_NUMBERS // (4 * d * len(_FAR)), 1))]
    ways = np.zeros((len(axes) + 2, d))
    ways[range(len(axes)), axes] = np.linalg.norm(factor[axes], axis=1)
    ways[-2:] = mean - bases[0], factor @ factor[widest[0]]
    ways = ways[np.all(np.isfinite(ways), axis=1)]
    lengths = np.maximum(np.linalg.norm(ways, axis=1), np.finfo(float).tiny)[:, None]
    rays = ways / lengths * np.clip(lengths, *_UNITS)
    rays = np.concatenate([rays, -rays])
    points = bases[:, None, None] + _FAR[:, None] * rays[:, None]
    mass = log_p(points.reshape(-1, d)).reshape(points.shape[:-1]) + np.log(_FAR)
    # Numbers may overflow far out: the last two that are numbers decide.
    number = np.cumprod(~np.isnan(mass), axis=-1).sum(axis=-1)
    last, before = (
        np.take_along_axis(mass, np.maximum(number - k, 0)[..., None], -1)[..., 0] for k in (1, 2)
    )
    rising = np.all((number > 2) & (last > -np.inf) & (last >= before), axis=0)
    return int(np.argmax(np.abs(rays[np.argmax(rising)]))) if rising.any() else None
