"""The verdict on a fit: which draws are best, and whether they may be used."""

import dataclasses
import functools

import jax
import numpy as np

from equipoise._types import Array
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._families.draws import AnyArray
from equipoise.vi._fit.judging import COMPONENTS, Judging, Normal
from equipoise.vi._fit.result import Fit, Source
from equipoise.vi._stages.beginning import GRADIENT, fewer
from equipoise.vi._stages.escalate import Stage, Tried, escalated
from equipoise.vi._starts.elsewhere import places_elsewhere
from equipoise.vi._starts.newton import climbed, find_starts
from equipoise.vi._starts.normals import Local, joined, no_modes, other_modes
from equipoise.vi._steps.loop import Found
from equipoise.vi._weights.adapt import MAX_ADAPTED, adapt, first_mixture, propose
from equipoise.vi._weights.diagnose import Diagnostics, summarize
from equipoise.vi._weights.effort import spent
from equipoise.vi._weights.growth import Draws, grown
from equipoise.vi._weights.products import transported
from equipoise.vi._weights.remedy import Case, explained
from equipoise.vi._weights.verdict import (
    NO_DOUBT,
    Verdict,
    disagreement,
    draws_needed,
    efficiency,
    is_better,
    misses,
    verdict,
)
from equipoise.vi._weights.weighted import Weighted, weigh

_ROUNDS, _FEW = 16, 4  # to adapt, the last for draws to use; and of those, where in doubt
_GOOD_KHAT = 0.5  # below it the weights have a finite variance
_GOOD_EFFICIENCY = 0.25
_CLOSE_MEAN, _CLOSE_SD = 0.05, 0.03
_MORE_STARTS, _FEWEST_STARTS = 8, 4  # for each of several modes, and with what is affordable
_WIDE_STEPS, _OF_BUDGET = 40, 0.25  # of those paths, and what share of a budget all may take
_SEARCHES = 4  # at most, each for what those before have not found
_SEARCHED, _FEW_SEARCHED = 16_384, 256  # points of one, at most, and where the density is dear
_SHORT = 12, 2  # Newton steps from a place behind a valley, of which the last may be at a mode


def _is_good(found: Diagnostics) -> bool:
    """Whether the weights of q have a finite variance and waste few draws."""
    return bool(found.khat <= _GOOD_KHAT and efficiency(found) >= _GOOD_EFFICIENCY)


def _is_close(found: Diagnostics) -> bool:
    """Whether reweighting moves nothing that matters, so that q itself is drawn from."""
    return bool(found.mean_shift < _CLOSE_MEAN and found.sd_shift < _CLOSE_SD)


def _weigh_adapted(with_: Judging, normal: Normal, modes: Local, most: int) -> tuple[Weighted, int]:
    """Weighted draws of a mixture that starts at a normal and the other modes; rounds it took."""
    mean, factor = normal
    rng, log_volume = with_.chance.draws, np.sum(np.log(np.diagonal(factor)))
    mixture, used = adapt(
        lambda noise: with_.target.values(transported(mean, factor, noise)),
        first_mixture(rng, COMPONENTS if len(mean) <= MAX_ADAPTED else 1, *modes),
        rng,
        num_samples=with_.num_draws,
        num_rounds=min(_ROUNDS, most) - 1,
    )

    def draw() -> Draws:
        noise, log_q = propose(rng, mixture, with_.num_draws)
        points = transported(mean, factor, noise)
        return points, with_.target.values(points), log_q - log_volume

    found = grown(draw, draw(), num_rounds=_FEW, most=most - used)
    return found, used + len(found.draws) // with_.num_draws


def _other_modes(with_: Judging, normal: Normal, starts: Local, center: np.ndarray) -> Local:
    """Local normals that q leaves out: of the starts, and of places behind valleys.

    Where there are some there may be more: paths from farther away, and places again.
    """
    target, rng, start = with_.target, with_.chance.starts, with_.beginning
    most = fewer(_SEARCHED, _FEW_SEARCHED, target.log_density.work)
    behind = modes = no_modes(len(center))
    for _ in range(_SEARCHES):
        places = places_elsewhere(target, normal, modes, center, starts.mean, rng, most)
        if len(places):
            behind = joined(behind, climbed(target, places.astype(target.dtype), rng, *_SHORT))
        before, modes = len(modes.elbo), other_modes(starts, *normal, behind=behind)
        if len(modes.elbo) == before:
            break
        here = start(normal, modes)
        mean, factor = here.over_all_modes()
        step = GRADIENT * len(mean) * here.work * _WIDE_STEPS / _OF_BUDGET
        number = _MORE_STARTS * (1 + len(modes.elbo))
        number = min(number, max(here.affordable(step), _FEWEST_STARTS))
        around = mean.astype(starts.mean.dtype)
        wider = find_starts(target, around, rng, number, 2 * factor, _WIDE_STEPS)
        starts = joined(starts, wider)
        modes = other_modes(starts, *normal, behind=behind)
    return modes


@np.errstate(all="ignore")  # what is not finite has a verdict
def judge(with_: Judging, found: Found, starts: Local | None, center: np.ndarray) -> Fit:
    """The fit with its diagnostics, best draws and verdict."""
    target, family = with_.target, with_.family
    first, like_q = with_.draw(found.params)
    weighted = of_q = weigh(*first)
    measured = summarize(weighted)
    best, source, doubt = measured, Source.VARIATIONAL, NO_DOUBT
    normal = found.proxy or like_q
    modes = no_modes(family.dimension)
    if normal is not None and starts is not None:
        modes = _other_modes(with_, normal, starts, center)
    several = len(modes.elbo) > 0
    good = _is_good(measured)
    sure = good and family.moments is not None
    ratios: AnyArray = weighted.log_ratios
    elbo = found.elbo or Estimate(ratios.mean(), ratios.std(ddof=1) / len(ratios) ** 0.5)
    small = family.dimension <= MAX_ADAPTED
    # More draws of what has not converged answer no question.
    sound = found.converged and not found.problem
    left = with_.num_rounds - 1
    if normal is not None and left and (several or (small and not sure)):
        adapted, used = _weigh_adapted(with_, normal, modes, left if sound else min(left, _ROUNDS))
        left, other = left - used, summarize(adapted)
        doubt = disagreement(weighted, adapted)
        convincing = doubt and verdict(other) is Verdict.TRUSTED
        if several or is_better(other, measured) or convincing:
            weighted, best = adapted, other
            doubt = doubt if misses(other, of_q) else NO_DOUBT
    # Without a finite variance standard errors prove nothing, where no mixture can disagree.
    proves = small or measured.khat <= _GOOD_KHAT
    if weighted is of_q and sound and proves and draws_needed(measured) > with_.num_draws:
        again = functools.partial(with_.draw, found.params)
        weighted = of_q = grown(lambda: again()[0], first, num_rounds=1, most=1 + left)
        measured = best = summarize(weighted)
    if best is not measured or not (good and _is_close(measured)):
        if best.khat <= best.threshold:
            source = Source.IMPORTANCE_RESAMPLED
        elif found.linear_response is not None:
            source = Source.LINEAR_RESPONSE
    start = None if normal is None else with_.beginning(normal, modes)
    said = verdict(best)
    if said is Verdict.TRUSTED and doubt:
        said = Verdict.DISAGREEMENT
    elif said is Verdict.TRUSTED and start and (unseen := start.unseen(weighted)):
        said, doubt = Verdict.ELSEWHERE, unseen
    if not found.converged:
        said = Verdict.NOT_CONVERGED
    if found.problem:
        said = Verdict.NOT_FINITE
    case = Case(
        said, found.problem, best, weighted, of_q, doubt, normal, center, found.state.history
    )
    explain = functools.partial(
        explained,
        log_p=target.values,
        rng=with_.chance.draws,
        path=family.positions.path,
        budget=with_.budget,
    )
    why = explain(case)
    tried = Tried(case, why, source, (Stage(str(source), why.sentence),))
    if with_.stages and start:
        tried = escalated(tried, with_.stages, start, explain)
    fit = Fit(
        family=family,
        params=found.params,
        elbo=elbo,
        diagnostics=measured,
        draw_diagnostics=tried.case.found,
        converged=_host(found.converged),
        trusted=_host(tried.why.verdict is Verdict.TRUSTED),
        history=_host(found.state.history),
        state=None,
        weighted=tried.case.weighted,
        linear_response=found.linear_response,
        reason=tried.why.sentence,
        source=Source(tried.source),
        verdict=tried.why.verdict,
        stages=tried.stages,
        evaluations=spent(),
    )
    return dataclasses.replace(_on_device(fit, target.dtype), state=found.state)


def _host(value: AnyArray) -> Array:
    """An array of NumPy, until all of them move together."""
    array: AnyArray = np.asarray(value)
    return array


def _on_device(fit: Fit, dtype: np.dtype) -> Fit:
    """The same with arrays of JAX in the dtype of the log density."""

    def narrow(leaf: Array | np.ndarray) -> Array | np.ndarray:
        floating = isinstance(leaf, (np.ndarray, np.floating)) and leaf.dtype.kind == "f"
        return leaf.astype(dtype) if floating else leaf

    placed: Fit = jax.device_put(jax.tree.map(narrow, fit))
    return placed
